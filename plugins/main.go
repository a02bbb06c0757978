// Command plugins is the one executable of all of Trestle's CNI plugins. bridge,
// host-local, portmap … are hard links to it: the name by which a runtime executes it
// chooses the plugin.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

// release is the version of this build, set by the Makefile. It starts at 2:
// nerdctl takes the number for that of the reference plugins and wants 1.7.1 or
// later before it uses all of the firewall plugin.
var release = "2.0.0-dev"

func main() {
	plugins := registry.Plugins()
	known := slices.Sorted(maps.Keys(plugins))
	name := filepath.Base(os.Args[0])
	if plugin, ok := plugins[pluginNamed(name, known)]; ok {
		os.Exit(cni.Main(plugin(), release))
	}
	wayOut := strings.Join(known, ", ")
	if os.Getenv("CNI_COMMAND") != "" {
		// a runtime takes the file's name from the type
		os.Exit(cni.Refuse(cni.ConfigErrorf("type: %q does not say which plugin it is; use one of %s, or a name that begins or ends with one of them, as in my-bridge", name, wayOut)))
	}
	fmt.Fprintf(os.Stderr, "%s: no plugin of this name; run this program as one of %s\n", name, wayOut)
	os.Exit(1)
}

// pluginNamed finds the plugin by the file's name, empty where there is none. People
// install copies and links as cnv-bridge or bridge.new, which works with the reference
// plugins, one executable each. The end of the name counts before its beginning.
func pluginNamed(file string, known []string) string {
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
