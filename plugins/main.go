// Command plugins is the executable of all Trestle's CNI plugins. bridge, host-local,
// portmap … are hard links to it: the name by which a runtime executes it selects the plugin.
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

// release is the version of this build, set by the Makefile. It starts at 2, since nerdctl
// takes it for the version of the reference plugins, and needs 1.7.1 or later to use the
// firewall plugin fully.
var release = "2.0.0-dev"

func main() {
	name := filepath.Base(os.Args[0])
	if plugin, ok := registry.Named(name); ok {
		os.Exit(cni.Main(plugin, release))
	}
	wayOut := strings.Join(slices.Sorted(maps.Keys(registry.Plugins())), ", ")
	if os.Getenv("CNI_COMMAND") != "" {
		// the runtime has taken the name of the file from the type
		os.Exit(cni.Refuse(cni.ConfigErrorf("type: %q does not say which plugin it is; use one of %s, or a name that begins or ends with one of them, as in my-bridge", name, wayOut)))
	}
	fmt.Fprintf(os.Stderr, "%s: no plugin of this name; run this program as one of %s\n", name, wayOut)
	os.Exit(1)
}
