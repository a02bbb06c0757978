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
	"github.com/trestle-cni/trestle/plugins/bandwidth"
	"github.com/trestle-cni/trestle/plugins/bridge"
	"github.com/trestle-cni/trestle/plugins/firewall"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
	"github.com/trestle-cni/trestle/plugins/loopback"
	"github.com/trestle-cni/trestle/plugins/portmap"
	"github.com/trestle-cni/trestle/plugins/static"
	"github.com/trestle-cni/trestle/plugins/tuning"
)

// release is the version of this build, set by the Makefile. It starts at 2:
// nerdctl takes the number for that of the reference plugins and wants 1.7.1 or
// later before it uses all of the firewall plugin.
var release = "2.0.0-dev"

func main() {
	plugins := map[string]func() cni.Plugin{
		"bandwidth":  bandwidth.Plugin,
		"bridge":     bridge.Plugin,
		"firewall":   firewall.Plugin,
		"host-local": hostlocal.Plugin,
		"loopback":   loopback.Plugin,
		"portmap":    portmap.Plugin,
		"static":     static.Plugin,
		"tuning":     tuning.Plugin,
	}
	name := filepath.Base(os.Args[0])
	plugin, ok := plugins[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: no plugin of this name; run this program as one of %s\n",
			name, strings.Join(slices.Sorted(maps.Keys(plugins)), ", "))
		os.Exit(1)
	}
	os.Exit(cni.Main(plugin(), release))
}
