package portmap

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestRestore: one command brings back what a flush has taken.
func TestRestore(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	before := h.Dump()
	h.Restore() // nothing
	h.AssertUnchanged(before)

	c := h.Container("c1")
	mapped := host.BridgeConfig(object{"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}}})
	c.MustAdd(mapped)
	c.Serve("tcp", ":80")
	whole := h.Dump()
	h.Restore() // nothing is missing
	h.AssertUnchanged(whole)

	h.MustRun("nft", "flush", "ruleset")
	address := netip.AddrPortFrom(host.HostIPv4.Addr(), 8080).String()
	if reply, err := h.Outside.Request("tcp", address); err == nil {
		t.Errorf("%s answers as %s without rules", address, reply.Server)
	}
	h.Restore()
	h.AssertUnchanged(whole)
	for _, to := range []string{address, strings.Replace(address, host.HostIPv4.Addr().String(), "["+host.HostIPv6.Addr().String()+"]", 1)} {
		if reply, err := h.Outside.Request("tcp", to); err != nil || reply.Server != c.Name {
			t.Errorf("%s: got %q, %v, want %s", to, reply.Server, err, c.Name)
		}
	}
	if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
}
