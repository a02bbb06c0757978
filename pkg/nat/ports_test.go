package nat

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/test/golden"
)

func mapping(protocol Protocol, host, container string) Mapping {
	return Mapping{protocol, netip.MustParseAddrPort(host), netip.MustParseAddrPort(container)}
}

func TestPortRules(t *testing.T) {
	plain := []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(UDP, "0.0.0.0:5353", "10.1.0.5:53")}
	one, two := prefixes("10.1.0.5/24"), prefixes("10.1.0.5/24", "fd00:1::5/64")
	snat := PortOptions{SNAT: true}
	exact := []Mapping{
		mapping(TCP, "127.0.0.1:8080", "10.1.0.5:80"), mapping(SCTP, "192.0.2.1:8080", "10.1.0.5:80"),
		mapping(TCP, "[2001:db8::1]:8080", "[fd00:1::5]:80"),
	}
	dual := []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(TCP, "[::]:8080", "[fd00:1::5]:80")}
	sameTarget := []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(TCP, "0.0.0.0:8081", "10.1.0.5:80")}
	for name, p := range map[string]Ports{
		"any":         {Mappings: plain, Subnets: one, Bridge: "lo", PortOptions: snat},
		"exact":       {Mappings: exact, Subnets: two, Bridge: "lo", PortOptions: snat},
		"dual":        {Mappings: dual, Subnets: two, Bridge: "lo", PortOptions: snat},
		"no-snat":     {Mappings: plain, Subnets: one},
		"masq-all":    {Mappings: plain, Subnets: one, Bridge: "lo", PortOptions: PortOptions{SNAT: true, MasqueradeAll: true}},
		"same-target": {Mappings: sameTarget, Subnets: one, Bridge: "lo", PortOptions: snat},
	} {
		both(t, name, func(t *testing.T, backend Backend) {
			h := openHost(t, backend)
			c1 := owner("blue", "c1")
			must(t, h.AddPorts(c1, p))
			golden.File(t, "ports-"+name+"."+string(backend), state(t, backend))
			diffs, err := h.CheckPorts(c1, p)
			if err != nil || len(diffs) > 0 {
				t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
			}
			must(t, h.AddPorts(c1, p))
			golden.File(t, "ports-"+name+"."+string(backend), state(t, backend))
			must(t, h.Release(c1))
			nothingLeft(t, h)
		})
	}
}

func twoPorts() Ports {
	return Ports{
		Mappings: []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(TCP, "[::]:8080", "[fd00:1::5]:80")},
		Subnets:  prefixes("10.1.0.5/24", "fd00:1::5/64"), Bridge: "lo", PortOptions: PortOptions{SNAT: true},
	}
}

func TestPortsAreRestored(t *testing.T) { both(t, "", portsAreRestored) }

func portsAreRestored(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	must(t, h.AddMasquerade(owner("blue", "c1"), Masquerade{Prefixes: prefixes("10.1.0.0/24")}))
	must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
	other := Ports{Mappings: []Mapping{mapping(UDP, "192.0.2.1:53", "10.2.0.5:53")}, Subnets: prefixes("10.2.0.5/24"), PortOptions: PortOptions{SNAT: true}}
	must(t, h.AddPorts(owner("red", "c2"), other))
	before := state(t, backend)
	flush(t)
	if diffs, err := h.CheckPorts(owner("blue", "c1"), twoPorts()); err != nil || len(diffs) == 0 {
		t.Errorf("CheckPorts after a flush: got %q, %v, want some difference", diffs, err)
	}
	must(t, h.Restore())
	must(t, h.Restore())
	if got := state(t, backend); sortedLines(got) != sortedLines(before) {
		t.Errorf("after Restore: got\n%s\nwant\n%s", got, before)
	}
	must(t, h.Release(owner("red", "c2")))
	must(t, h.Release(owner("blue", "c1")))
	nothingLeft(t, h)
}

// A transaction of thousands of elements fits the socket.
func TestThousandsOfPorts(t *testing.T) {
	h := openHost(t, NFTables)
	p := Ports{Subnets: prefixes("10.1.0.5/24"), PortOptions: PortOptions{SNAT: true}}
	for port := range uint16(1500) {
		m := mapping(TCP, "0.0.0.0:1", "10.1.0.5:1")
		m.Host, m.Container = netip.AddrPortFrom(m.Host.Addr(), 10000+port), netip.AddrPortFrom(m.Container.Addr(), 1+port)
		p.Mappings = append(p.Mappings, m)
	}
	long := owner(strings.Repeat("n", 200), strings.Repeat("c", 64))
	must(t, h.AddPorts(long, p))
	flush(t)
	must(t, h.Restore())
	if diffs, err := h.CheckPorts(long, p); err != nil || len(diffs) > 0 {
		t.Errorf("CheckPorts: got %d differences, %v, want none", len(diffs), err)
	}
	must(t, h.AddMasquerade(owner("blue", "c1"), Masquerade{Prefixes: prefixes("10.2.0.0/24")})) // so that elements are removed one by one
	must(t, h.Release(long))
	must(t, h.Release(owner("blue", "c1")))
	nothingLeft(t, h)
}

// Runtimes send one container's mappings to all of its networks.
func TestPortsOfOneContainerOnTwoNetworks(t *testing.T) {
	both(t, "", portsOfOneContainerOnTwoNetworks)
}

func portsOfOneContainerOnTwoNetworks(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	blue, red := owner("blue", "c1"), owner("red", "c1")
	second := Ports{Mappings: []Mapping{mapping(TCP, "0.0.0.0:8080", "10.2.0.5:80")}, Subnets: prefixes("10.2.0.5/24"), Bridge: "lo", PortOptions: PortOptions{SNAT: true}}
	must(t, h.AddPorts(blue, twoPorts()))
	first := state(t, backend)
	must(t, h.AddPorts(red, second))
	if diffs, err := h.CheckPorts(red, second); err != nil || len(diffs) > 0 {
		t.Errorf("CheckPorts of the second network: got %q, %v, want no difference", diffs, err)
	}
	must(t, h.Release(red))
	if got := state(t, backend); got != first {
		t.Errorf("after the second network: got\n%s\nwant\n%s", got, first)
	}
	must(t, h.Release(blue))
	nothingLeft(t, h)
}

// DEL after a flush still removes records and reservations.
func TestPortsAreReleasedAfterAFlush(t *testing.T) { both(t, "", portsAreReleasedAfterAFlush) }

func portsAreReleasedAfterAFlush(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	other := Ports{Mappings: []Mapping{mapping(TCP, "0.0.0.0:9090", "10.1.0.6:80")}, Subnets: prefixes("10.1.0.6/24"), PortOptions: PortOptions{SNAT: true}}
	must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
	flush(t)
	must(t, h.AddPorts(owner("blue", "c2"), other)) // the table is there again, and c1's ports are not
	must(t, h.Release(owner("blue", "c1")))
	if diffs, err := h.CheckPorts(owner("blue", "c2"), other); err != nil || len(diffs) > 0 {
		t.Errorf("CheckPorts of the other one: got %q, %v, want no difference", diffs, err)
	}
	must(t, h.Release(owner("blue", "c2")))
	nothingLeft(t, h)
}

// An element without a record gets one if a lease or a link shows that its owner is alive.
// Otherwise it is void, and does not block its port.
func TestPortTakenWithoutARecord(t *testing.T) {
	for name, alive := range map[string]bool{"alive": true, "void": false} {
		both(t, name, func(t *testing.T, backend Backend) {
			h := openHost(t, backend)
			must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
			lost := openAt(t, backend, t.TempDir())
			lost.alive = func(string) (bool, error) { return alive, nil }
			other := Ports{Mappings: []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.6:80")}, Subnets: prefixes("10.1.0.6/24")}
			err := lost.AddPorts(owner("red", "c2"), other)
			if !alive {
				must(t, err)
				if diffs, err := lost.CheckPorts(owner("red", "c2"), other); err != nil || len(diffs) > 0 {
					t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
				}
				must(t, lost.ReleaseReference(owner("blue", "c1"), nil)) // as DEL does
				must(t, lost.Release(owner("blue", "c1")))
				must(t, lost.Release(owner("red", "c2")))
				nothingLeft(t, lost)
				return
			}
			if cni.CodeOf(err) != cni.CodeConflict || !strings.Contains(err.Error(), "container c1 of network blue") {
				t.Errorf("got %v, want code %d that names c1 of blue", err, cni.CodeConflict)
			}
			if diffs, err := h.CheckPorts(owner("blue", "c1"), twoPorts()); err != nil || len(diffs) > 0 {
				t.Errorf("CheckPorts of the holder: got %q, %v, want no difference", diffs, err)
			}
			must(t, lost.ReleaseReference(owner("blue", "c1"), nil)) // as DEL does
			must(t, lost.Release(owner("blue", "c1")))
			nothingLeft(t, lost)
		})
	}
}

// A reservation whose record is gone or truncated does not block the port.
func TestVoidClaims(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"gone":      os.Remove,
		"truncated": func(file string) error { return os.Truncate(file, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			h := openHost(t, NFTables)
			must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
			must(t, spoil(h.store.Path(place, owner("blue", "c1"))))
			flush(t)
			other := twoPorts()
			must(t, h.AddPorts(owner("red", "c2"), other))
			if diffs, err := h.CheckPorts(owner("red", "c2"), other); err != nil || len(diffs) > 0 {
				t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
			}
		})
	}
}

func sortedLines(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestGCBesideALostReservation: if another attachment has reserved the port meanwhile it keeps
// it, and GC reports no error. Otherwise the lost reservation is made again.
func TestGCBesideALostReservation(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
		must(t, os.RemoveAll(h.store.Dir("hostports")))
		flush(t)
		must(t, h.GC("blue", cni.Valid{}))
		if diffs, err := h.CheckPorts(owner("blue", "c1"), twoPorts()); err != nil || len(diffs) > 0 {
			t.Errorf("CheckPorts of c1: got %q, %v, want no difference", diffs, err)
		}
		must(t, os.RemoveAll(h.store.Dir("hostports")))
		flush(t)
		must(t, h.AddPorts(owner("red", "c2"), twoPorts()))
		must(t, h.GC("blue", cni.Valid{}))
		if diffs, err := h.CheckPorts(owner("red", "c2"), twoPorts()); err != nil || len(diffs) > 0 {
			t.Errorf("CheckPorts of c2: got %q, %v, want no difference", diffs, err)
		}
		must(t, h.Release(owner("blue", "c1")))
		must(t, h.Release(owner("red", "c2")))
		nothingLeft(t, h)
	})
}

// TestReservedBesideALoadedRuleset: an element that a loaded ruleset has given to another owner
// is replaced by that of the owner with the reservation, even if the other is alive.
func TestReservedBesideALoadedRuleset(t *testing.T) {
	for name, act := range map[string]func(testHost) error{
		"restore": testHost.Restore,
		"GC":      func(h testHost) error { return h.GC("red", cni.Valid{}) },
	} {
		both(t, name, func(t *testing.T, backend Backend) {
			h := openHost(t, backend)
			h.alive = func(string) (bool, error) { return true, nil }
			must(t, h.AddPorts(owner("red", "c2"), twoPorts()))
			for _, e := range (ownedPorts{owner("red", "c2"), twoPorts()}).elements() {
				e.Owner = owner("blue", "c1").String()
				must(t, h.conn.Commit(nft.Changes{Tables: natTables(), Create: []nft.Element{e}}, nobody))
			}
			must(t, act(h))
			if diffs, err := h.CheckPorts(owner("red", "c2"), twoPorts()); err != nil || len(diffs) > 0 {
				t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
			}
			must(t, h.Release(owner("red", "c2")))
		})
	}
}

// TestGCOfOneNetworkAfterRecordsWereLost: the list says nothing about containers of another
// network, which a link shows to be alive.
func TestGCOfOneNetworkAfterRecordsWereLost(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h, other := openHost(t, backend), owner("red", "c2")
		must(t, h.AddPorts(other, twoPorts()))
		before := golden.Ruleset(t)
		must(t, os.RemoveAll(h.dir))
		valid, err := (&cni.Request{Stdin: []byte(`{"cni.dev/valid-attachments": []}`)}).Valid()
		must(t, err)
		h = openAt(t, backend, h.dir)
		h.alive = func(label string) (bool, error) { return label == other.String(), nil }
		must(t, h.GC("blue", valid))
		if _, there, err := h.read(other); err != nil || !there {
			t.Errorf("got a record %v, %v, want one", there, err)
		}
		if got := golden.Ruleset(t); got != before {
			t.Errorf("got\n%s\nwant\n%s", got, before)
		}
		must(t, h.Release(other))
	})
}

// TestUndoTakesNobodysPort: an ADD that gave another port, and is undone, does not take the
// former one back from whoever has it by then.
func TestUndoTakesNobodysPort(t *testing.T) {
	both(t, "undo", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		first, second := owner("blue", "c1"), owner("red", "c2")
		ports := func(address string, hosts ...string) Ports {
			var p Ports
			for _, host := range hosts {
				p.Mappings = append(p.Mappings, mapping(TCP, host, address))
			}
			return p
		}
		before, given := ports("10.1.0.2:80", "0.0.0.0:8080", "0.0.0.0:9090"), ports("10.1.0.2:80", "0.0.0.0:8081")
		must(t, h.AddPorts(first, before))
		var undo cni.Undo
		must(t, h.Add(h.attachment(first, nil, &given), &undo))
		others := ports("10.2.0.2:80", "0.0.0.0:8080")
		must(t, h.AddPorts(second, others))
		err := errors.New("a later plugin failed")
		undo.OnError(&err)
		if !strings.Contains(err.Error(), "8080") || !strings.Contains(err.Error(), "taken by container c2") {
			t.Errorf("got %v, want that it names the port and its holder", err)
		}
		left := ports("10.1.0.2:80", "0.0.0.0:9090")
		for o, p := range map[cni.Owner]Ports{first: left, second: others} {
			if diffs, err := h.CheckPorts(o, p); err != nil || len(diffs) > 0 {
				t.Errorf("%s: got %q, %v", o, diffs, err)
			}
		}
		must(t, h.Release(first))
		must(t, h.Release(second))
		nothingLeft(t, h)
	})
}
