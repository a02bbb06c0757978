package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Dirs says where programs under test are.
type Dirs struct {
	Trestle   string // our plugins, as `make build` lays them out
	Reference string // the reference plugins
	Cnitool   string // the program cnitool
}

// Dirs says where the programs under test are: Trestle's plugins in $TRESTLE_BIN
// and the peers below $TRESTLE_PEERS, or else in a temporary directory, built by
// the first test that asks. The peers come from the module graph.
func (h *Host) Dirs() Dirs { return h.dirs }

var plugins = []string{"bridge", "host-local", "loopback", "portmap", "bandwidth", "firewall", "static", "tuning"}

var peers = []string{
	"github.com/containernetworking/plugins/plugins/main/bridge",
	"github.com/containernetworking/plugins/plugins/main/loopback",
	"github.com/containernetworking/plugins/plugins/ipam/host-local",
	"github.com/containernetworking/plugins/plugins/meta/portmap",
	"github.com/containernetworking/plugins/plugins/meta/firewall",
	"github.com/containernetworking/plugins/plugins/meta/tuning",
}

// builtTemp is the temporary directory of this process, once it has one.
var builtTemp string

func removeBuilt() {
	if builtTemp != "" {
		_ = os.RemoveAll(builtTemp) // a leftover in /tmp fails no test
	}
}

var builtDirs = sync.OnceValues(func() (d Dirs, err error) {
	trestle, peersDir := os.Getenv("TRESTLE_BIN"), os.Getenv("TRESTLE_PEERS")
	if trestle == "" || peersDir == "" {
		if builtTemp, err = os.MkdirTemp("", "trestle-bin"); err != nil {
			return d, err
		}
	}
	if trestle == "" {
		trestle = filepath.Join(builtTemp, "trestle")
		err = buildTrestle(trestle)
	}
	if peersDir == "" {
		peersDir = filepath.Join(builtTemp, "peers")
	}
	d = Dirs{Trestle: trestle, Reference: filepath.Join(peersDir, "reference"), Cnitool: filepath.Join(peersDir, "cnitool")}
	return d, errors.Join(err, goBuild(d.Reference+"/", peers...), goBuild(d.Cnitool, "github.com/containernetworking/cni/cnitool"))
})

// buildTrestle does what `make build` does.
func buildTrestle(dir string) error {
	executable := filepath.Join(dir, plugins[0])
	if err := goBuild(executable, "github.com/trestle-cni/trestle/plugins"); err != nil {
		return err
	}
	for _, name := range plugins[1:] {
		if err := os.Link(executable, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func goBuild(output string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", output}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
