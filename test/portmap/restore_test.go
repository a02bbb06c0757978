package portmap

import (
	"net/netip"
	"path/filepath"
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
	if reply, err := h.Outside.Briefly().Request("tcp", address); err == nil {
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

// TestRestoreTells: what was made again, network by network; of what is stale;
// and, where nothing was missing, that.
func TestRestoreTells(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.Container("c1").MustAdd(host.BridgeConfig(object{
				"name": "blue", "ipMasqBackend": backend, "macspoofchk": true,
				"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}},
			}))
			h.Container("c2").MustAdd(host.BridgeConfig(object{"name": "red", "bridge": "br1", "ipMasqBackend": backend, "ipam": host.Leases("10.8.0.0/24")}))
			flush := "nft flush ruleset"
			for _, tt := range []struct {
				lost string
				want []string
			}{
				{"true", []string{"nothing was missing (2 networks with records)\n"}},
				{flush, []string{"blue: restored masquerade; mapped ports of c1/eth0; MAC checks of c1/eth0\n", "red: restored masquerade\n"}},
				{"true", []string{"nothing was missing (2 networks with records)\n"}},
				{"rm -r /run/trestle/translations/blue", []string{"blue/c1/eth0: had no record but is alive"}},
				{"rm -r /run/trestle/translations/blue /var/lib/cni/networks/blue; ip -n c1 link del eth0", []string{"blue/c1/eth0: stale, without record"}},
			} {
				h.MustRun("sh", "-ec", tt.lost)
				got := h.MustRun(filepath.Join(h.Dirs().Trestle, "trestle"), "restore")
				for _, want := range tt.want {
					if !strings.Contains(got, want) {
						t.Errorf("after %s: got\n%swant %q", tt.lost, got, want)
					}
				}
			}
			if left := h.MustRun("sh", "-c", host.ListRuleset+" | sed -n '/^table inet trestle /,/^}/p' | grep -F blue/c1; iptables-save -t nat | grep -F blue/c1; ls /run/trestle/hostports; true"); left != "" {
				t.Errorf("restore left of a container that is gone\n%s", left)
			}
		})
	}
}
