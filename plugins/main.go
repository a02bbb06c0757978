// Command plugins is the one executable behind all of Trestle's CNI plugins: a
// runtime executes it as bridge, host-local, portmap or loopback, which are hard
// links of it, and the name decides.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/bandwidth"
	"github.com/trestle-cni/trestle/plugins/bridge"
	"github.com/trestle-cni/trestle/plugins/firewall"
	"github.com/trestle-cni/trestle/plugins/loopback"
	"github.com/trestle-cni/trestle/plugins/static"
	"github.com/trestle-cni/trestle/plugins/tuning"
)

// release is the version of this build, set by the Makefile. It starts at 2:
// nerdctl takes the number for that of the reference plugins and wants 1.7.1 or
// later before it uses all of the firewall plugin.
var release = "2.0.0-dev"

var plugins = map[string]func() cni.Plugin{
	"bandwidth": bandwidth.Plugin,
	"bridge":    bridge.Plugin,
	"firewall":  firewall.Plugin,
	"loopback":  loopback.Plugin,
	"static":    static.Plugin,
	"tuning":    tuning.Plugin,
}

func main() {
	name := filepath.Base(os.Args[0])
	plugin, ok := plugins[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: no plugin of this name; run this program as bridge, host-local, loopback or portmap\n", name)
		os.Exit(1)
	}
	os.Exit(cni.Main(plugin(), release))
}
