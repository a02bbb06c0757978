// Command plugins is the one executable behind all of Trestle's CNI plugins: a
// runtime executes it as bridge, host-local, portmap and so on, which are hard
// links of it, and the name decides.
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
	name := filepath.Base(os.Args[0])
	if plugin, ok := registry.Named(name); ok {
		os.Exit(cni.Main(plugin, release))
	}
	wayOut := strings.Join(slices.Sorted(maps.Keys(registry.Plugins())), ", ")
	if os.Getenv("CNI_COMMAND") != "" {
		// a runtime takes the file's name from the type
		os.Exit(cni.Refuse(cni.ConfigErrorf("type: %q does not say which plugin it is; use one of %s, or a name that begins or ends with one of them, as in my-bridge", name, wayOut)))
	}
	fmt.Fprintf(os.Stderr, "%s: no plugin of this name; run this program as one of %s\n", name, wayOut)
	os.Exit(1)
}
