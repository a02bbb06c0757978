package validate

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// Runtime is one that is installed, and the newest version of CNI whose results it reads.
type Runtime struct{ Name, Version, Newest string }

func (r Runtime) String() string { return r.Name + " " + r.Version }

// since says from which version on a runtime reads results of 1.1.0, by the libcni that
// it was built with (1.2 is the first that does); 0: none does.
var since = []struct {
	name         string
	major, minor int
}{
	{"containerd", 2, 0}, {"crio", 1, 31}, {"nerdctl", 2, 0}, {"podman", 0, 0},
}

var release = regexp.MustCompile(`\bv?(\d+)\.(\d+)\.\d+\S*`)

// Runtimes asks those that are installed for their versions.
func Runtimes(ctx context.Context) []Runtime {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all []Runtime
	for _, s := range since {
		out, err := exec.CommandContext(ctx, s.name, "--version").Output()
		found := release.FindStringSubmatch(string(out))
		if err != nil || found == nil {
			continue // not installed, or nothing that can be understood
		}
		major, _ := strconv.Atoi(found[1]) // digits
		minor, _ := strconv.Atoi(found[2])
		r := Runtime{Name: s.name, Version: found[0], Newest: "1.1.0"}
		if s.major == 0 || major < s.major || major == s.major && minor < s.minor {
			r.Newest = "1.0.0"
		}
		all = append(all, r)
	}
	return all
}
