// Package registry is the list of Trestle's plugins, and the only one: the program
// takes them from here, the Makefile reads their names from this file's text, and
// test/host has Plugins. A plugin more is a folder plugins/NAME and a line here.
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

// Keys are all keys that the plugin reads, those of the protocol last; nil for a name
// that no plugin of ours has.
func Keys(plugin string) []cni.Key {
	wired, known := Plugins()[plugin]
	if !known {
		return nil
	}
	return slices.Concat(wired().Keys(), cni.ProtocolKeys())
}

// States are all kinds of what our plugins make on a host, each once, as the plugins
// list them: the first whose State it is speaks for it.
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

// Plugins are what a runtime may execute, by name. The file is built under the name
// of the first; the others are links to it. One plugin a line, since the Makefile
// looks for lines that begin with a name.
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

// Named is the plugin that a file's name is about: people install copies and links of a
// plugin as cnv-bridge or bridge.new, and the reference plugins, one executable each, do
// not care. The end of the name goes before its beginning.
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
