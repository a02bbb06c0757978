package picture

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// pooled is a host whose network has that pool and these leases, some of them of dead containers.
func pooled(p inventory.Pool, leased, dead, reserved []netip.Addr) *inventory.Snapshot {
	s := &inventory.Snapshot{}
	for i, address := range slices.Concat(leased, dead) {
		a := inventory.Attachment{
			Network: "web", Container: fmt.Sprint(i), IfName: "eth0", State: inventory.Alive, Addresses: []netip.Addr{address}, Evidence: inventory.Evidence{Lease: true},
		}
		if i >= len(leased) {
			a.State = inventory.Dead
		}
		s.Attachments = append(s.Attachments, a)
	}
	p.Used, p.Dead = uint64(len(leased)+len(dead)), uint64(len(dead))
	s.Networks = []inventory.Network{{Name: "web", Pools: []inventory.Pool{p}, Reserved: reserved}}
	return s
}

// from are n consecutive addresses.
func from(first string, n int) []netip.Addr {
	all := []netip.Addr{addr(first)}
	for len(all) < n {
		all = append(all, all[len(all)-1].Next())
	}
	return all
}

// pools are hosts with pools of different sizes.
func pools() map[string]*inventory.Snapshot {
	narrow := pool("10.1.0.0/26", 0, 0)
	narrow.First, narrow.Last = addr("10.1.0.16"), addr("10.1.0.31")
	narrow.Range.First, narrow.Range.Last = narrow.First, narrow.Last
	narrow.Size = narrow.Range.Size()
	return map[string]*inventory.Snapshot{
		"24":     pooled(pool("192.168.100.0/24", 0, 0), from("192.168.100.2", 60), from("192.168.100.62", 3), from("192.168.100.200", 5)),
		"16":     pooled(pool("10.22.0.0/16", 0, 0), slices.Concat(from("10.22.0.2", 3000), from("10.22.80.0", 20), from("10.22.80.64", 40), from("10.22.80.128", 60)), from("10.22.129.3", 1), nil),
		"v6":     pooled(pool("fd6c:4ae9:71d3:22::/64", 0, 0), from("fd6c:4ae9:71d3:22::2", 600), from("fd6c:4ae9:71d3:22::4ff", 2), nil),
		"v6-far": pooled(pool("fd6c:4ae9:71d3:22::/64", 0, 0), []netip.Addr{addr("fd6c:4ae9:71d3:22::2"), addr("fd6c:4ae9:71d3:22:ffff::1")}, nil, nil),
		"range":  pooled(narrow, from("10.1.0.17", 3), nil, nil),
	}
}

// TestPoolText: pools of different sizes, in 80 columns without colours.
func TestPoolText(t *testing.T) {
	for name, snapshot := range pools() {
		maps := NewPoolMaps(snapshot)
		if len(maps) != 1 {
			t.Fatalf("%s: got %d maps", name, len(maps))
		}
		got := maps[0].Text(80, nil)
		golden(t, "pool-"+name+".txt", got)
		for _, line := range strings.Split(got, "\n") {
			if n := utf8.RuneCountInString(line); n > 80 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
	}
}

func TestPoolSVG(t *testing.T) {
	golden(t, "pool-24.svg", PoolsSVG(NewPoolMaps(pools()["24"])))
	for name, snapshot := range pools() {
		elements(t, PoolsSVG(NewPoolMaps(snapshot, "web")))
		if maps := NewPoolMaps(snapshot, "other"); len(maps) != 0 {
			t.Errorf("%s: got %v of a network that is not asked for", name, maps)
		}
	}
	elements(t, PoolsSVG(nil))
}

// TestPoolMapCounts: the cells' counts sum up to the pool's.
func TestPoolMapCounts(t *testing.T) {
	for name, want := range map[string]Cell{
		"24":    {Leased: 60, Dead: 3, Free: 254 - 63 - 5, Reserved: 2 + 5},
		"16":    {Leased: 3120, Dead: 1, Free: 65534 - 3121, Reserved: 2},
		"range": {Leased: 3, Free: 13, Reserved: 64 - 16},
	} {
		var got Cell
		for _, c := range NewPoolMaps(pools()[name])[0].Cells {
			got.Free += c.Free
			got.Leased += c.Leased
			got.Dead += c.Dead
			got.Reserved += c.Reserved
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}
