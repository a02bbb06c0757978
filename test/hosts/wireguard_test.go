package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// tryWireGuard makes and deletes a device; EOPNOTSUPP says that the kernel has none.
func tryWireGuard() error {
	probe := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "probe"}}
	if err := netlink.LinkAdd(probe); err != nil {
		return err
	}
	return netlink.LinkDel(probe)
}

// cipher is three hosts of a list, by WireGuard; c is behind NAT.
type cipher struct {
	*lab.Lab
	list   list
	agents map[string]*lab.Agent
	at     map[string]*lab.Attached
}

// list is cluster.json.
type list struct {
	Networks json.RawMessage `json:"networks"`
	Backend  string          `json:"backend"`
	Nodes    []*listed       `json:"nodes"`
}

type listed struct {
	Name     string          `json:"name"`
	Underlay []string        `json:"underlay"`
	Subnets  json.RawMessage `json:"subnets"`
	Key      string          `json:"wgKey,omitempty"`
	NAT      bool            `json:"nat,omitempty"`
}

func (w *cipher) node(name string) *listed {
	for _, n := range w.list.Nodes {
		if n.Name == name {
			return n
		}
	}
	w.Fatalf("no node %s in the list", name)
	return nil
}

// publish writes the list to all hosts.
func (w *cipher) publish() {
	data, err := json.MarshalIndent(w.list, "", "  ")
	if err != nil {
		w.Fatalf("%v", err)
	}
	for _, a := range w.agents {
		a.Write("/etc/trestle/cluster.json", string(data))
	}
}

// key is what the host says that its key is.
func (w *cipher) key(h *lab.Host) string {
	out := h.Node("node", "join", "--name", h.Name)
	_, text, found := strings.Cut(out.Stdout, `"wgKey": "`)
	key, _, _ := strings.Cut(text, `"`)
	if out.Code != 0 || !found {
		w.Fatalf("join %s: %v, want its key", h.Name, out)
	}
	return key
}

// device is the WireGuard device of a host.
func (w *cipher) device(name string) *wgtypes.Device {
	var device *wgtypes.Device
	err := w.agents[name].Do(func() error {
		client, err := wgctrl.New()
		if err != nil {
			return err
		}
		device, err = client.Device("trestle-wg")
		return errors.Join(err, client.Close())
	})
	if err != nil {
		w.Fatalf("device of %s: %v", name, err)
	}
	return device
}

// peers are those of the host's device: key, endpoint, subnets.
func (w *cipher) peers(name string) map[string]string {
	all := map[string]string{}
	for _, p := range w.device(name).Peers {
		all[p.PublicKey.String()] = fmt.Sprint(p.Endpoint, len(p.AllowedIPs))
	}
	return all
}

// await waits until the device of a has exactly these peers.
func (w *cipher) await(what string, want map[string]string) {
	w.Helper()
	w.Eventually(what, func() error {
		if got := w.peers("a"); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("a has peers %v, want %v", got, want)
		}
		return nil
	})
}

// masquerade has packets of c's device come from another address and port, as a NAT
// in between does; what was known of their flows is forgotten.
func (w *cipher) masquerade(as string) {
	c := w.agents["c"]
	addr, _, _ := strings.Cut(as, ":")
	c.MustRun("sh", "-c", "ip address replace "+addr+"/24 dev eth0; nft delete table ip nat 2>/dev/null; nft add table ip nat && "+
		"nft add chain ip nat out '{ type nat hook postrouting priority 100; }' && nft add rule ip nat out udp sport 8473 snat to "+as+" && conntrack -F 2>/dev/null; true")
}

func newCipher(t *testing.T) *cipher {
	t.Helper()
	w := &cipher{Lab: lab.New(t), agents: map[string]*lab.Agent{}, at: map[string]*lab.Attached{}}
	args := []string{"cluster", "init", "--pool", "10.40.0.0/16", "--pool6", "fd40::/48", "--backend", "wireguard"}
	hosts := []*lab.Host{w.Host("a"), w.Host("b"), w.Host("c")}
	for _, h := range hosts {
		args = append(args, "--node", h.Name+"="+netip.PrefixFrom(h.IPv4, 24).String())
	}
	if out := hosts[0].Node(args...); out.Code != 0 {
		t.Fatal(out)
	}
	list := hosts[0].MustRun("cat", "/etc/trestle/cluster.json")
	if err := json.Unmarshal([]byte(list), &w.list); err != nil {
		t.Fatal(err)
	}
	switch err := hosts[0].Do(tryWireGuard); {
	case err == nil:
	case !errors.Is(err, unix.EOPNOTSUPP):
		t.Fatal(err)
	case os.Getenv("TRESTLE_VM") != "":
		t.Fatalf("this kernel was booted for the tests of WireGuard, but: %v", err)
	default:
		refused(t, hosts[0])
		t.Skipf("this kernel has no WireGuard (%v); `make test-vm` boots one that has", err)
	}
	for _, h := range hosts {
		h.Write("/etc/trestle/cluster.json", list)
		w.node(h.Name).Key = w.key(h)
	}
	w.node("c").NAT = true
	for _, h := range hosts {
		settings := lab.Settings{"name": h.Name, "heartbeat": "2s", "audit": "2s"}
		if h.Name == "c" {
			settings["nat"] = true
		}
		w.agents[h.Name] = w.Agent(h, settings)
	}
	w.masquerade("203.0.113.99:40001")
	w.publish()
	for _, h := range hosts {
		s := w.Await(h, "reached by WireGuard", func(s lab.Status) bool {
			return s.State == "ready" && byTunnel(s, "wireguard")
		})
		if s.MTU != 1440 {
			t.Errorf("%s: got MTU %d, want 1440", h.Name, s.MTU)
		}
		w.at[h.Name] = w.Attach(h, "at-"+h.Name)
	}
	return w
}

// byTunnel says whether both peers are reached by a device of this kind.
func byTunnel(s lab.Status, kind string) bool {
	return len(s.Peers) == 2 && s.Peers[0].Way == "tunnel" && s.Peers[1].Way == "tunnel" && s.Tunnel.Kind == kind
}

// refused: a host whose kernel has no WireGuard is told so when it would join, and nothing is written.
func refused(t *testing.T, h *lab.Host) {
	t.Helper()
	out := h.Node("node", "join", "--name", h.Name)
	for _, want := range []string{"backend wireguard: the kernel has no WireGuard", "modprobe wireguard", `"backend": "vxlan"`} {
		if out.Code == 0 || !strings.Contains(out.Stderr, want) {
			t.Errorf("join without WireGuard: got %v, want %q", out, want)
		}
	}
	if got := h.MustRun("sh", "-c", "ls /etc/trestle/node.json /etc/cni/net.d /var/lib/trestle/node/state.json 2>/dev/null; ip -br link show trestle-wg 2>/dev/null; true"); got != "" {
		t.Errorf("refused, and there is\n%s", got)
	}
}

// TestWireGuard (row 29): hosts reach each other by WireGuard at full size. A restart
// changes nothing; a peer with another key takes the place of its former self; where a
// peer behind NAT has gone is learnt, and kept, whatever else changes; and what is removed
// is made again.
func TestWireGuard(t *testing.T) {
	t.Parallel()
	w := newCipher(t)
	a, b := w.agents["a"], w.agents["b"]
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}, {"c", "a"}, {"a", "c"}} {
		w.Reach(w.at[pair[0]], w.at[pair[1]])
	}
	keys := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		keys[name] = w.node(name).Key
	}
	atB := b.IPv4.String() + ":8473 2"
	w.await("the peers, and where the NAT has put c", map[string]string{keys["b"]: atB, keys["c"]: "203.0.113.99:40001 2"})
	w.fullSize(t)
	if got := a.MustRun("stat", "-c", "%a", "/var/lib/trestle/node/wg.key"); got != "600\n" {
		t.Errorf("got mode %s of the key, want 600", got)
	}

	pings := w.Pings(w.at["b"], w.at["a"].Addresses[0])
	w.restart(t)
	w.masquerade("203.0.113.98:40002")
	roamed := map[string]string{keys["b"]: atB, keys["c"]: "203.0.113.98:40002 2"}
	w.await("c roams", roamed)
	w.restart(t)
	w.await("c has roamed, and a is started anew", roamed)
	noneLost(t, "agents restart and a peer roams", pings)

	b.MustRun("rm", "/var/lib/trestle/node/wg.key")
	b.Kill()
	w.node("b").Key = w.key(b.Host)
	w.publish()
	b.Start()
	renewed := map[string]string{w.node("b").Key: atB, keys["c"]: "203.0.113.98:40002 2"}
	w.await("b has another key", renewed)
	w.Reach(w.at["a"], w.at["b"])
	w.Reach(w.at["b"], w.at["a"])
	w.Reach(w.at["a"], w.at["c"])
	w.repaired(renewed)

	w.list.Backend = "vxlan"
	w.node("c").NAT = false
	w.publish()
	for _, h := range w.agents {
		w.Await(h.Host, "by VXLAN", func(s lab.Status) bool { return byTunnel(s, "vxlan") })
	}
	w.Reach(w.at["a"], w.at["c"])
	if got := a.MustRun("ip", "-br", "link", "show", "type", "wireguard"); got != "" {
		t.Errorf("by VXLAN: got %s, want no device of WireGuard's", got)
	}

	// somebody else's device of our name, which has no key yet, is named, and left as it is
	a.MustRun("ip", "link", "add", "trestle-wg", "type", "wireguard")
	w.list.Backend = "wireguard"
	w.publish()
	w.Await(a.Host, "the device is named", func(s lab.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "trestle-wg is a WireGuard device that Trestle did not make")
	})
	if d := w.device("a"); d.PrivateKey != (wgtypes.Key{}) || len(d.Peers) > 0 {
		t.Errorf("got %+v, want another's device as it was", d)
	}
	a.MustRun("ip", "link", "del", "trestle-wg")
	w.Eventually("our device is in its place", func() error {
		if got := a.MustRun("sh", "-c", "ip link show group 116; true"); !strings.Contains(got, "trestle-wg") || !strings.Contains(got, "alias trestle-node") {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
}

// fullSize: what fits the MTU arrives, unfragmented, and a byte more is refused with the MTU.
func (w *cipher) fullSize(t *testing.T) {
	t.Helper()
	if out := w.agents["a"].Node("cluster", "check"); out.Code != 0 || strings.Count(out.Stdout, "fine, by wireguard") != 2 {
		t.Errorf("check: got %v, want both peers fine", out)
	}
	to := w.at["b"].Addresses[0].String()
	w.at["a"].MustRun("ping", "-n", "-c1", "-W30", "-M", "do", "-s", "1412", to)
	out, err := w.at["a"].Run(host.Command{Args: []string{"ping", "-n", "-c1", "-W2", "-M", "do", "-s", "1413", to}})
	if err != nil || out.Code == 0 || !strings.Contains(out.Stdout+out.Stderr, "1440") {
		t.Errorf("a byte too much: got %v, %v, want the MTU", out, err)
	}
}

// restart kills and starts a's agent, which finds nothing to do.
func (w *cipher) restart(t *testing.T) {
	t.Helper()
	a := w.agents["a"]
	before := w.device("a")
	index := a.MustRun("cat", "/sys/class/net/trestle-wg/ifindex")
	pid := w.Ready(a.Host, 2).PID
	a.Kill()
	a.Start()
	w.Await(a.Host, "started anew", func(s lab.Status) bool {
		return s.PID != pid && s.State == "ready" && len(s.Peers) == 2 && s.Repairs == 0
	})
	if got := a.MustRun("cat", "/sys/class/net/trestle-wg/ifindex"); got != index || w.device("a").PublicKey != before.PublicKey {
		t.Errorf("started anew: the device is another, %s (it was %s), or its key is", got, index)
	}
}

// repaired: the device, and a peer of it, are taken away.
func (w *cipher) repaired(peers map[string]string) {
	a := w.agents["a"]
	seen := w.Ready(a.Host, 2).Repairs
	for _, harm := range []func() error{
		func() error { a.MustRun("ip", "link", "set", "trestle-wg", "down"); return nil },
		func() error { a.MustRun("ip", "link", "del", "trestle-wg"); return nil },
		func() error {
			return a.Do(func() error {
				client, err := wgctrl.New()
				if err != nil {
					return err
				}
				remove := wgtypes.PeerConfig{PublicKey: w.device("a").Peers[0].PublicKey, Remove: true}
				return errors.Join(client.ConfigureDevice("trestle-wg", wgtypes.Config{Peers: []wgtypes.PeerConfig{remove}}), client.Close())
			})
		},
	} {
		if err := harm(); err != nil {
			w.Fatalf("%v", err)
		}
		seen = w.Await(a.Host, "it is counted", func(s lab.Status) bool { return s.Repairs > seen }).Repairs
		w.Reach(w.at["a"], w.at["b"])
		w.Reach(w.at["c"], w.at["a"])
		w.await("the peers are back", peers)
	}
}
