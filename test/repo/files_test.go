package repo

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// openers are what opens a file of any kind, and waits for the other end of a FIFO.
var openers = regexp.MustCompile(`\bos\.(Open|ReadFile|WriteFile)\(`)

// openedByOthers are files of the source with such a call whose path nobody can have put
// anything at, or is a person's word.
var openedByOthers = map[string]string{
	"cmd/trestle-node/cluster_commands.go": "named on the command line",
	"cmd/trestle-node/etcd.go":             "named on the command line",
	"cmd/trestle-node/flannel.go":          "named on the command line",
	"cmd/trestle/container/stop.go":        "the kernel's",
	"cmd/trestle/doctor/host.go":           "the kernel's",
	"cmd/trestle/doctor/tunnel.go":         "the kernel's",
	"cmd/trestle/drawings.go":              "named on the command line",
	"cmd/trestle/run_background.go":        "the null device",
	"cmd/trestle/way/inside.go":            "the kernel's",
	"pkg/bridge/sysctl.go":                 "the kernel's",
	"pkg/cluster/state.go":                 "a directory",
	"pkg/iptables/iptables.go":             "the kernel's",
	"pkg/record/host.go":                   "a name that nobody can know",
	"plugins/bridge/ipam.go":               "programs, which are regular files",
}

// TestFilesAreRegular: state and lists are read and written by pkg/rawfile, which waits for
// nobody and takes no more than fits.
func TestFilesAreRegular(t *testing.T) {
	seen := map[string]bool{}
	for _, root := range []string{"pkg", "plugins", "cmd"} {
		err := filepath.WalkDir("../../"+root, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			name := strings.TrimPrefix(path, "../../")
			for line := range strings.Lines(readFile(t, path)) {
				if !openers.MatchString(line) || strings.Contains(line, `"/proc`) {
					continue
				}
				if seen[name] = true; openedByOthers[name] == "" {
					t.Errorf("%s: %s: use pkg/rawfile: there may be a FIFO, or a huge file", name, strings.TrimSpace(line))
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for name := range openedByOthers {
		if !seen[name] {
			t.Errorf("%s opens no such file any more; take it out of the list", name)
		}
	}
}
