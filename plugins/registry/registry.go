// Package registry is the only list of Trestle's plugins. The programs and the tests call
// Plugins, Keys and States, and the Makefile reads the names from the text of this file. To
// add a plugin, add a folder plugins/NAME and a line in Plugins.
package registry

import (
	"maps"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/bandwidth"
	"github.com/trestle-cni/trestle/plugins/bridge"
	"github.com/trestle-cni/trestle/plugins/firewall"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
	"github.com/trestle-cni/trestle/plugins/loopback"
	"github.com/trestle-cni/trestle/plugins/portmap"
	"github.com/trestle-cni/trestle/plugins/static"
	"github.com/trestle-cni/trestle/plugins/tuning"
)

// Keys are all keys that the plugin of that name reads, those of the protocol last; nil if we
// have no such plugin.
func Keys(plugin string) []cni.Key {
	wired, known := Plugins()[plugin]
	if !known {
		return nil
	}
	return slices.Concat(wired().Keys(), cni.ProtocolKeys())
}

// States are all kinds of state that our plugins make on a host, each once: if two plugins
// list the same kind, it is the State of the first by name.
func States() []cni.State {
	var all []cni.State
	plugins := Plugins()
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		for _, state := range plugins[name]().States {
			same := func(s cni.State) bool { return s.Package == state.Package && s.What == state.What }
			if !slices.ContainsFunc(all, same) {
				all = append(all, state)
			}
		}
	}
	return all
}

// Plugins are the plugins that a runtime may execute, by name. make builds the file under the
// first name and makes links for the others. There must be one plugin a line, since the
// Makefile looks for lines that begin with a name.
func Plugins() map[string]func() cni.Plugin {
	return map[string]func() cni.Plugin{
		"bridge":     bridge.Plugin,
		"host-local": hostlocal.Plugin,
		"loopback":   loopback.Plugin,
		"portmap":    portmap.Plugin,
		"bandwidth":  bandwidth.Plugin,
		"firewall":   firewall.Plugin,
		"static":     static.Plugin,
		"tuning":     tuning.Plugin,
	}
}

// Named is the plugin for the name of an executable, which is that of the plugin, or ends or
// begins with it: people install copies and links as cnv-bridge or bridge.new, which works with
// the reference plugins, since each is an executable of its own. An end takes precedence.
func Named(file string) (cni.Plugin, bool) {
	plugins := Plugins()
	plugin, ok := plugins[nameIn(file, slices.Sorted(maps.Keys(plugins)))]
	if !ok {
		return cni.Plugin{}, false
	}
	return plugin(), true
}

func nameIn(file string, known []string) string {
	const separators = "-._"
	set := func(rest string, at int) bool { return rest != "" && strings.IndexByte(separators, rest[at]) >= 0 }
	var begins string
	for _, name := range known {
		if file == name {
			return name
		}
		if rest, ok := strings.CutSuffix(file, name); ok && set(rest, len(rest)-1) {
			return name
		}
		if rest, ok := strings.CutPrefix(file, name); ok && set(rest, 0) {
			begins = name
		}
	}
	return begins
}
