package runtimes

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Version is that of a runtime that is installed, and the newest version of CNI whose
// results it reads.
type Version struct{ Name, Version, Newest string }

// since says from which version on a runtime reads results of 1.1.0, by the libcni that
// it was built with (1.2 is the first that does); 0: none does.
var since = []struct {
	name         string
	major, minor int
}{
	{"containerd", 2, 0}, {"crio", 1, 31}, {"nerdctl", 2, 0}, {"podman", 0, 0},
}

var release = regexp.MustCompile(`\bv?(\d+)\.(\d+)\.\d+\S*`)

// Installed asks those that are installed for their versions.
func Installed(ctx context.Context) []Version {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all []Version
	for _, s := range since {
		out, err := exec.CommandContext(ctx, s.name, "--version").Output()
		found := release.FindStringSubmatch(string(out))
		if err != nil || found == nil {
			continue // not installed, or nothing that can be understood
		}
		major, _ := strconv.Atoi(found[1]) // digits
		minor, _ := strconv.Atoi(found[2])
		r := Version{Name: s.name, Version: strings.TrimPrefix(found[0], "v"), Newest: "1.1.0"}
		if s.major == 0 || major < s.major || major == s.major && minor < s.minor {
			r.Newest = "1.0.0"
		}
		all = append(all, r)
	}
	return all
}
