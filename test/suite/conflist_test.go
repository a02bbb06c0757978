package suite

import (
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/test/host"
)

// TestConflists attaches a container to each list that comes with Trestle, maps
// a port, and detaches it.
func TestConflists(t *testing.T) {
	for _, name := range []string{conflist.Default, conflist.Fast} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, err := conflist.Files.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			h := host.NewRouting(t)
			network, c := h.Network(string(list)), h.Container("c1")
			attachment := c.Attachment()
			for _, run := range []func() error{
				func() error { _, err := network.Add(attachment); return err },
				func() error { return network.Del(attachment) },
			} {
				if err := run(); err != nil {
					t.Fatal(err)
				}
			}
			before := h.Dump() // the bridge, which stays
			attachment.CapabilityArgs["portMappings"] = []any{object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
			if _, err := network.Add(attachment); err != nil {
				t.Fatal(err)
			}
			c.Serve("tcp", ":80")
			for _, to := range []netip.Addr{host.HostIPv4.Addr(), host.HostIPv6.Addr()} {
				if reply, err := h.Outside.Request("tcp", netip.AddrPortFrom(to, 8080).String()); err != nil || reply.Server != c.Name {
					t.Errorf("port 8080 of %s: got %q, %v, want %s", to, reply.Server, err, c.Name)
				}
			}
			if err := network.Del(attachment); err != nil {
				t.Fatal(err)
			}
			h.AssertUnchanged(before, host.Kept...)
		})
	}
}
