package portmap

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/test/host"
)

// upgradeNet is a network with masquerade and mapped ports, on a host that is upgraded
// while containers are on it.
type upgradeNet struct {
	*host.Host
	*host.Network
}

func newUpgradeNet(t *testing.T, backend string) upgradeNet {
	t.Helper()
	h := host.New(t)
	network := h.Network(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "blue", "plugins": [
		{"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "ipMasqBackend": %q,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
		{"type": "portmap", "backend": %q, "capabilities": {"portMappings": true}}]}`, backend, backend))
	h.Outside.Serve("tcp", ":90")
	return upgradeNet{h, network}
}

func (u upgradeNet) attachment(c *host.Container, port int) *libcni.RuntimeConf {
	a := c.Attachment()
	a.CapabilityArgs["portMappings"] = []any{
		map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"},
		map[string]any{"hostPort": port, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.2"},
	}
	return a
}

// works says whether the container's mapped ports and its masquerade do.
func (u upgradeNet) works(t *testing.T, c *host.Container, port int, when string) {
	t.Helper()
	for from, addresses := range map[*host.Namespace][]string{u.Outside: {"192.0.2.2", "[2001:db8::2]"}, u.Namespace: {"127.0.0.1", "192.0.2.2"}} {
		for _, address := range addresses {
			to := fmt.Sprintf("%s:%d", address, port)
			if reply, err := from.Request("tcp", to); err != nil || reply.Server != c.ID {
				t.Errorf("%s: %s from %s: got %v, %v, want %s", when, to, from.Name, reply, err, c.ID)
			}
		}
	}
	for to, seen := range map[string]string{"192.0.2.1:90": "192.0.2.2", "[2001:db8::1]:90": "2001:db8::2"} {
		if reply, err := c.Request("tcp", to); err != nil || reply.Seen.Addr().String() != seen {
			t.Errorf("%s: %s asks %s: got %v, %v, want it to see %s", when, c.ID, to, reply, err, seen)
		}
	}
}

// TestNATUpgrade: containers that the build before attached are served by this one, whose
// first use brings the rules up to date, whichever use that is.
func TestNATUpgrade(t *testing.T) {
	t.Parallel()
	if host.New(t).Dirs().Previous == "" {
		t.Skip("TRESTLE_PREVIOUS is not set: make previous")
	}
	for _, backend := range host.NATBackends {
		for _, use := range []string{"ADD", "DEL", "restore", "GC"} {
			t.Run(backend+"/"+use, func(t *testing.T) {
				t.Parallel()
				u := newUpgradeNet(t, backend)
				u.Path = []string{u.Dirs().Previous}
				stays, goes := u.Container("stays"), u.Container("goes")
				attachments := map[*host.Container]*libcni.RuntimeConf{stays: u.attachment(stays, 8080), goes: u.attachment(goes, 8081)}
				for c, a := range attachments {
					if _, err := u.Add(a); err != nil {
						t.Fatal(err)
					}
					c.Serve("tcp", ":80")
				}
				u.works(t, stays, 8080, "before")
				u.Path = []string{u.Dirs().Trestle}
				u.use(t, use, attachments[stays], attachments[goes])
				u.works(t, stays, 8080, "after "+use)
				if got := u.MustRun("sh", "-c", "nft list ruleset; cat /proc/sys/net/ipv4/conf/br0/route_localnet; ls /run/trestle"); strings.Contains(got, "TRESTLE-P-") || strings.Contains(got, "TRESTLE-PORTS") ||
					strings.Contains(got, "TRESTLE-L") || strings.Contains(got, "loopback_guard") || strings.Contains(got, "\n1\n") || strings.Contains(got, "\nnat\n") {
					t.Errorf("after %s: got\n%s\nwant nothing of the build before, and no route_localnet", use, got)
				}
				if err := u.Check(attachments[stays]); err != nil {
					t.Errorf("CHECK: %v", err)
				}
				for _, a := range attachments {
					if err := u.Del(a); err != nil {
						t.Errorf("DEL: %v", err)
					}
				}
				if err := u.GC(&libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
					t.Errorf("GC: %v", err)
				}
				if got := u.MustRun("sh", "-c", "nft list ruleset; find /run/trestle/translations /run/trestle/hostports ! -type d | tr / ."); strings.Contains(strings.ToLower(got), "trestle") || strings.Contains(got, "CNI-") {
					t.Errorf("at the end: got\n%s\nwant nothing of ours", got)
				}
			})
		}
	}
}

// use is the first that this build is put to.
func (u upgradeNet) use(t *testing.T, use string, stays, goes *libcni.RuntimeConf) {
	t.Helper()
	var err error
	switch use {
	case "ADD":
		c := u.Container("new")
		a := u.attachment(c, 8082)
		if _, err = u.Add(a); err == nil {
			c.Serve("tcp", ":80")
			u.works(t, c, 8082, "the new one")
			err = u.Del(a)
		}
	case "DEL":
		err = u.Del(goes)
	case "restore":
		u.Restore()
	case "GC":
		gc := &libcni.GCArgs{}
		for _, a := range []*libcni.RuntimeConf{stays, goes} {
			gc.ValidAttachments = append(gc.ValidAttachments, types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
		}
		err = u.GC(gc)
	}
	if err != nil {
		t.Errorf("%s: %v", use, err)
	}
}

// TestNATUpgradeOnce: the first use brings what the build before made in nftables to this
// one's layout, the elements included, by one transaction: no packet meets half of it.
func TestNATUpgradeOnce(t *testing.T) {
	t.Parallel()
	u := newUpgradeNet(t, "nftables")
	if u.Dirs().Previous == "" {
		t.Skip("TRESTLE_PREVIOUS is not set: make previous")
	}
	u.Path = []string{u.Dirs().Previous}
	for i := range 3 {
		if _, err := u.Add(u.attachment(u.Container(fmt.Sprint("c", i)), 8080+i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 0} { // the second finds nothing to do
		_, trace, err := u.Trace(host.Strace{Syscalls: "sendto"}, host.Command{Args: []string{filepath.Join(u.Dirs().Trestle, "trestle"), "restore"}})
		if got := strings.Count(trace.Text, "NFNL_MSG_BATCH_BEGIN"); err != nil || got != want {
			t.Errorf("got %d transactions, %v, want %d\n%s", got, err, want, trace.Text)
		}
	}
}
