package host

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/trestle-cni/trestle/plugins/registry"
)

// Dirs says where the programs under test are.
type Dirs struct {
	Trestle   string // our plugins, as `make build` lays them out
	Reference string // the reference plugins
	Cnitool   string // the program cnitool
	Previous  string // our plugins of the commit that test/previous.commit names; "" unless make built them
}

// Dirs says where the programs under test are: Trestle's plugins in $TRESTLE_BIN,
// the reference plugins and cnitool in $TRESTLE_PEERS, as `make` sets them; what
// is not set is built, once for each test program. The earlier build is in
// $TRESTLE_PREVIOUS (make previous), since it takes the history of the repository.
func (h *Host) Dirs() Dirs { return h.dirs }

// Plugins are the names of our plugins, in order.
func Plugins() []string { return slices.Sorted(maps.Keys(registry.Plugins())) }

// builtTemp is the temporary directory of this process, once it has one.
var builtTemp string

func removeBuilt() {
	if builtTemp != "" {
		_ = os.RemoveAll(builtTemp) // a leftover in /tmp fails no test
	}
}

var builtDirs = sync.OnceValues(func() (Dirs, error) {
	trestle, err := builtDir("TRESTLE_BIN", buildTrestle)
	if err != nil {
		return Dirs{}, err
	}
	peers, err := builtDir("TRESTLE_PEERS", buildPeers)
	return Dirs{Trestle: trestle, Reference: peers, Cnitool: filepath.Join(peers, "cnitool"), Previous: os.Getenv("TRESTLE_PREVIOUS")}, err
})

// builtDir is the directory that the variable names, or a new one.
func builtDir(variable string, build func(dir string) error) (string, error) {
	if dir := os.Getenv(variable); dir != "" {
		return dir, nil
	}
	if builtTemp == "" {
		var err error
		if builtTemp, err = os.MkdirTemp("", "trestle-bin"); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(builtTemp, variable)
	return dir, build(dir)
}

// buildTrestle does what `make build` does.
func buildTrestle(dir string) error {
	plugins := Plugins()
	executable := filepath.Join(dir, plugins[0])
	if err := goBuild(executable, "github.com/trestle-cni/trestle/plugins"); err != nil {
		return err
	}
	for _, name := range plugins[1:] {
		if err := os.Link(executable, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, command := range []string{"trestle", "trestle-node"} {
		if err := goBuild(filepath.Join(dir, command), "github.com/trestle-cni/trestle/cmd/"+command); err != nil {
			return err
		}
	}
	return nil
}

// buildPeers builds what the module graph names as tools.
func buildPeers(dir string) error { return goBuild(dir+"/", "tool") }

func goBuild(output, packages string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", output, packages)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
