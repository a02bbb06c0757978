package runtimes

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Version is the version of an installed runtime, and the newest version of CNI whose results
// it reads.
type Version struct{ Name, Version, Newest string }

// since has the first version of each runtime that reads results of 1.1.0, as libcni 1.2 and
// later do; 0 if none does.
var since = []struct {
	name         string
	major, minor int
}{
	{"containerd", 2, 0}, {"crio", 1, 31}, {"nerdctl", 2, 0}, {"podman", 0, 0},
}

var release = regexp.MustCompile(`\bv?(\d+)\.(\d+)\.\d+\S*`)

// Installed runs each installed runtime to get its version.
func Installed(ctx context.Context) []Version {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all []Version
	for _, s := range since {
		out, err := exec.CommandContext(ctx, s.name, "--version").Output()
		found := release.FindStringSubmatch(string(out))
		if err != nil || found == nil {
			continue // not installed, or the output has no version
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
