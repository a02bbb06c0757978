package tuning

import (
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// AllowList is the file by which an administrator restricts the sysctls that networks may
// set: each line is a regular expression that must match a part of the name.
const AllowList = "/etc/cni/tuning/allowlist.conf"

// CheckAllowed refuses sysctls whose name in the configuration no line of the file at path
// matches. If there is no such file, all are allowed.
func (c Config) CheckAllowed(path string) error {
	if len(c.sysctls) == 0 {
		return nil
	}
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cni.IOErrorf("read which sysctls are allowed: %w", err)
	}
	var allowed []*regexp.Regexp
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		expression, err := regexp.Compile(line)
		if err != nil {
			return cni.ConfigErrorf("%s: %q is not a regular expression: %w", path, line, err)
		}
		allowed = append(allowed, expression)
	}
	for _, n := range c.sysctls {
		if !matchesAny(allowed, n.name) {
			return cni.ConfigErrorf("%s: %q is not allowed on this host; leave it out, or have it added to %s", n.key, n.name, path)
		}
	}
	return nil
}

func matchesAny(expressions []*regexp.Regexp, name string) bool {
	for _, e := range expressions {
		if e.MatchString(name) {
			return true
		}
	}
	return false
}
