package cni

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// needed are the capabilities that plugins use: for links and rules, for entering a
// namespace, and for announcing a container's MAC (docs/security.md).
var needed = []struct {
	number int
	name   string
}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}}

// explainPermission adds to the message of an EPERM which capabilities this process lacks.
// If it lacks none, something else refused the operation.
func explainPermission(message string, err error) string {
	if !errors.Is(err, unix.EPERM) {
		return message
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if unix.Capget(&header, &has[0]) != nil {
		return message
	}
	var lacks, all []string
	for _, c := range needed {
		all = append(all, c.name)
		if has[0].Effective&(1<<c.number) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	if len(lacks) == 0 {
		return message
	}
	return message + "; this process lacks " + strings.Join(lacks, ", ") + ": run plugins as root, with " + strings.Join(all, ", ")
}
