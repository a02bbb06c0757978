package bridge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

// enableForwarding lets the host route for its containers. It is never taken
// back: nobody knows who else has come to rely on it.
func (s *State) enableForwarding() error {
	if s.Forward4 {
		if err := setSysctl(forward4, "1"); err != nil {
			return err
		}
	}
	if !s.Forward6 {
		return nil
	}
	if have, err := readSysctl(forward6); err == nil && have == "1" {
		return nil
	}
	if err := keepRouterAdvertisements(); err != nil {
		return err
	}
	return setSysctl(forward6, "1")
}

// keepRouterAdvertisements raises accept_ra from 1 to 2 on the host's own links.
// A host that forwards ignores advertisements at 1 and would lose the default
// route that it lives by (kernel, networking/ip-sysctl, accept_ra).
func keepRouterAdvertisements() error {
	links, err := os.ReadDir(filepath.Join(sysctlRoot, "ipv6/conf"))
	if err != nil {
		return fmt.Errorf("list links with IPv6: %w", err)
	}
	var failed error
	for _, l := range links {
		if l.Name() == "all" || l.Name() == "default" || l.Name() == "lo" {
			continue
		}
		name := filepath.Join("ipv6/conf", l.Name(), "accept_ra")
		if have, err := readSysctl(name); err == nil && have == "1" {
			failed = errors.Join(failed, setSysctl(name, "2"))
		}
	}
	return failed
}
