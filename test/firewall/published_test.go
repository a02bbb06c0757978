package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// exposed is a host with network 1 under test, another with no policy, one with the
// policy "same-bridge", and one like the first, each with a container that serves port 80.
type exposed struct {
	walled
	networks map[int]*host.Network

	a, neighbour, open, same, like firewalled
}

// newExposed maps port 8080 of the host to port 80 of the first container.
func newExposed(t *testing.T, keys, obstacle string, brNetfilter int) exposed {
	t.Helper()
	e := exposed{walled: newWalled(t), networks: map[int]*host.Network{}}
	e.bridgeNetfilter(brNetfilter)
	e.MustRun("sh", "-ec", obstacle)
	for i, keys := range map[int]string{1: keys, 2: "", 3: `"ingressPolicy": "same-bridge"`, 4: keys} {
		list := string(e.network(i, keys).List.Bytes)
		e.networks[i] = e.Network(strings.Replace(list, `{"type": "firewall"`, `{"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "firewall"`, 1))
		e.Outside.MustRun("ip", "route", "add", fmt.Sprintf("10.%d.0.0/24", i), "via", host.HostIPv4.Addr().String())
		e.Outside.MustRun("ip", "route", "add", fmt.Sprintf("fd0%d::/64", i), "via", host.HostIPv6.Addr().String())
	}
	e.a, e.neighbour, e.open, e.same, e.like = e.container(1, 5), e.container(1, 6), e.container(2, 5), e.container(3, 5), e.container(4, 5)
	e.a.attachment.CapabilityArgs["portMappings"] = []any{
		object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, object{"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
	}
	for c, i := range map[*firewalled]int{&e.a: 1, &e.neighbour: 1, &e.open: 2, &e.same: 3, &e.like: 4} {
		e.add(e.networks[i], *c)
		c.Serve("tcp", ":80")
		c.Serve("udp", ":80")
	}
	e.Outside.Serve("tcp", ":80")
	return e
}

// way is who asks whom, and whether there is to be an answer.
type way struct {
	from *host.Namespace
	to   string // network and address
	want bool
}

// ways are from one to port 80 of both addresses of another, over TCP and UDP.
func ways(from *host.Namespace, want bool, addresses ...netip.Addr) []way {
	var all []way
	for _, address := range addresses {
		for _, protocol := range []string{"tcp", "udp"} {
			all = append(all, way{from, protocol + " " + netip.AddrPortFrom(address, 80).String(), want})
		}
	}
	return all
}

func (c firewalled) addresses() []netip.Addr { return []netip.Addr{c.v4, c.v6} }

// published are ways to the mapped port.
func published(from *host.Namespace, want bool) []way {
	all := ways(from, want, host.HostIPv4.Addr(), host.HostIPv6.Addr())
	for i := range all {
		all[i].to = strings.TrimSuffix(all[i].to, ":80") + ":8080"
	}
	return all
}

// expect goes all ways at once, since what is dropped takes its time.
func (e exposed) expect(when string, all ...[]way) {
	e.t.Helper()
	var each sync.WaitGroup
	for _, some := range all {
		for _, w := range some {
			each.Go(func() {
				protocol, address, _ := strings.Cut(w.to, " ")
				if _, err := w.from.Expecting(w.want).Request(protocol, address); (err == nil) != w.want {
					e.t.Errorf("%s: %s reaches %s: got %v, want %v (%v)", when, w.from.Name, w.to, err == nil, w.want, err)
				}
			})
		}
	}
	each.Wait()
}

// What drops by iptables, or nothing does; frames within a bridge are shown to it, or not.
var exposures = map[string]struct {
	obstacle    string
	brNetfilter int
}{
	"nothing drops":            {"true", 0},
	"FORWARD drops":            {"iptables -P FORWARD DROP; ip6tables -P FORWARD DROP", 0},
	"frames shown":             {"true", 1},
	"FORWARD and frames shown": {"iptables -P FORWARD DROP; ip6tables -P FORWARD DROP", 1},
}

// TestFirewallPublished: from outside of the bridge there is no way but by published ports.
func TestFirewallPublished(t *testing.T) {
	t.Parallel()
	for name, x := range exposures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newExposed(t, `"ingressPolicy": "published"`, x.obstacle, x.brNetfilter)
			holds := func(when string) {
				t.Helper()
				e.expect(
					when,
					ways(e.Outside, false, e.a.addresses()...), published(e.Outside, true),
					ways(e.neighbour.Namespace, true, e.a.addresses()...), published(e.neighbour.Namespace, true), published(e.a.Namespace, true),
					ways(e.open.Namespace, false, e.a.addresses()...), published(e.open.Namespace, true),
					ways(e.same.Namespace, false, e.a.addresses()...), published(e.same.Namespace, true),
					ways(e.like.Namespace, false, e.a.addresses()...), published(e.like.Namespace, true),
					ways(e.a.Namespace, false, append(e.same.addresses(), e.like.addresses()...)...),
					ways(e.Namespace, true, e.a.addresses()...), published(e.Namespace, true),
					[]way{{e.a.Namespace, "tcp " + host.OutsideIPv4.Addr().String() + ":80", true}},
				)
			}
			holds("attached")
			if x.obstacle == "true" { // nor is another network without a policy kept from it
				e.expect("attached", ways(e.a.Namespace, true, e.open.addresses()...))
			}
			for i, c := range map[int]firewalled{1: e.a, 4: e.like} {
				if err := e.networks[i].Check(c.attachment); err != nil {
					t.Errorf("CHECK of %s: %v", c.ID, err)
				}
			}
			e.MustRun("nft", "flush", "ruleset")
			e.MustRun("sh", "-ec", x.obstacle)
			if err := e.networks[1].Check(e.a.attachment); host.CodeOf(err) != 103 {
				t.Errorf("CHECK after a flush: got %v, want code 103", err)
			}
			e.Restore()
			holds("restored")
			for c, i := range map[*firewalled]int{&e.a: 1, &e.neighbour: 1, &e.open: 2, &e.same: 3, &e.like: 4} {
				e.del(e.networks[i], *c)
			}
			e.leftNothing()
		})
	}
}

// TestFirewallInternal: nothing is forwarded to an internal network, nor from it, whatever
// is mapped; the host is its neighbour.
func TestFirewallInternal(t *testing.T) {
	t.Parallel()
	for name, x := range exposures {
		if x.brNetfilter == 0 == (x.obstacle == "true") {
			continue // two of the four show each of both
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newExposed(t, `"internal": true`, x.obstacle, x.brNetfilter)
			e.expect(
				"attached",
				ways(e.Outside, false, e.a.addresses()...), published(e.Outside, false),
				ways(e.neighbour.Namespace, true, e.a.addresses()...),
				ways(e.open.Namespace, false, e.a.addresses()...), published(e.open.Namespace, false),
				ways(e.like.Namespace, false, e.a.addresses()...),
				ways(e.a.Namespace, false, append(e.open.addresses(), host.OutsideIPv4.Addr(), host.OutsideIPv6.Addr())...),
				ways(e.Namespace, true, e.a.addresses()...),
			)
			if err := e.networks[1].Check(e.a.attachment); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			for c, i := range map[*firewalled]int{&e.a: 1, &e.neighbour: 1, &e.open: 2, &e.same: 3, &e.like: 4} {
				e.del(e.networks[i], *c)
			}
			e.leftNothing()
		})
	}
}

// Two networks on one bridge, of which one asks for a policy and is gone first, or GC
// finds that nobody is left.
func TestFirewallPublishedGC(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.plugged()
	a, b := w.container(1, 5), w.container(1, 6)
	const keys, other = `"backend": "nftables", "ingressPolicy": "published", "internal": true`, `"backend": "nftables", "ingressPolicy": "same-bridge"`
	w.Must(w.call(a, "ADD", keys), w.call(b, "ADD", other))
	same := []string{"br1 comment n1/", "br1 . br1 comment n1/"}
	all := append(append([]string{}, same...), "br1 comment n1/", "br1 comment n1/", "br1 . br1 comment n1/", "br1 . br1 comment n1/")
	w.expectElements("attached", all...)
	w.Must(w.gc(a, b))
	w.expectElements("GC that keeps both", all...)
	w.MustRun("nft", "delete", "element", "inet", "trestle", "published_bridges", "{ br1 }")
	if err := w.Exec(w.call(a, "CHECK", keys)).Err(); host.CodeOf(err) != 103 || !strings.Contains(err.Error(), "published_bridges") {
		t.Errorf("CHECK without an element: got %v, want code 103 that names its set", err)
	}
	w.Must(w.gc(a, b), w.call(a, "CHECK", keys))
	w.Must(w.gc(b))
	w.expectElements("GC that keeps one", same...)
	w.Must(w.call(b, "CHECK", other), w.gc())
	if got := w.MustRun("nft", "list", "ruleset"); got != "" {
		t.Errorf("got %s, want idle tables gone", got)
	}
}
