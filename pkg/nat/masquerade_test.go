package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/test/golden"
)

func TestMasqueradeRules(t *testing.T) {
	var many []netip.Prefix
	for i := range maxCompared {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), 24))
	}
	for name, m := range map[string]Masquerade{
		"ipv4":      {Prefixes: prefixes("10.1.0.0/24")},
		"odd":       {Prefixes: prefixes("10.1.16.0/20", "10.9.0.4/32")},
		"dual":      {Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64")},
		"exclude":   {Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), Exclude: prefixes("192.168.0.0/16", "10.0.0.0/8", "fd00::/8")},
		"fixed":     {Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), SNAT4: netip.MustParseAddr("192.0.2.1"), SNAT6: netip.MustParseAddr("2001:db8::1")},
		"random":    {Prefixes: prefixes("10.1.0.0/24"), RandomFully: true},
		"fixedrand": {Prefixes: prefixes("10.1.0.0/24"), RandomFully: true, SNAT4: netip.MustParseAddr("192.0.2.1")},
		"many":      {Prefixes: prefixes("10.1.0.0/24", "10.2.0.0/30"), Exclude: many, SNAT4: netip.MustParseAddr("192.0.2.1")},
	} {
		both(t, name, func(t *testing.T, backend Backend) {
			h := openHost(t, backend)
			must(t, h.AddMasquerade(owner("blue", "c1"), m))
			golden.File(t, "masquerade-"+name+"."+string(backend), state(t, backend))
			diffs, err := h.CheckMasquerade(owner("blue", "c1"), m)
			if err != nil || len(diffs) > 0 {
				t.Errorf("CheckMasquerade: got %v, %v, want no difference", diffs, err)
			}
			must(t, h.Release(owner("blue", "c1")))
			nothingLeft(t, h)
		})
	}
}

func TestMasqueradeIsOneRuleForTheNetwork(t *testing.T) {
	both(t, "", masqueradeIsOneRuleForTheNetwork)
}

func masqueradeIsOneRuleForTheNetwork(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	m := Masquerade{Prefixes: prefixes("10.1.0.0/24")}
	must(t, h.AddMasquerade(owner("blue", "c1"), m))
	before := state(t, backend)
	must(t, h.AddMasquerade(owner("blue", "c1"), m))
	must(t, h.AddMasquerade(owner("blue", "c2"), m))
	if got := state(t, backend); got != before {
		t.Errorf("ruleset after a second owner: got\n%s\nwant\n%s", got, before)
	}
	must(t, h.Release(owner("blue", "c1")))
	must(t, h.Release(owner("blue", "c1")))
	must(t, h.Release(owner("blue", "never added")))
	if got := state(t, backend); got != before {
		t.Errorf("ruleset with an owner left: got\n%s\nwant\n%s", got, before)
	}
	must(t, h.Release(owner("blue", "c2")))
	nothingLeft(t, h)
}

func TestMasqueradeOfNetworksIsApart(t *testing.T) { both(t, "", masqueradeOfNetworksIsApart) }

func masqueradeOfNetworksIsApart(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	blue, red := Masquerade{Prefixes: prefixes("10.1.0.0/24")}, Masquerade{Prefixes: prefixes("10.2.0.0/24")}
	must(t, h.AddMasquerade(owner("blue", "c1"), blue))
	alone := state(t, backend)
	must(t, h.AddMasquerade(owner("red", "c1"), red))
	must(t, h.Release(owner("red", "c1")))
	must(t, h.GC("red", cni.Valid{Known: true}))
	if got := state(t, backend); got != alone {
		t.Errorf("ruleset after the other network left: got\n%s\nwant\n%s", got, alone)
	}
}

// A network may have several subnets; each container is in one of them.
func TestMasqueradeOfSubnetsAddsUp(t *testing.T) { both(t, "", masqueradeOfSubnetsAddsUp) }

func masqueradeOfSubnetsAddsUp(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	first, second := Masquerade{Prefixes: prefixes("10.1.0.0/24")}, Masquerade{Prefixes: prefixes("10.2.0.0/24", "fd00:2::/64")}
	must(t, h.AddMasquerade(owner("blue", "c1"), first))
	must(t, h.AddMasquerade(owner("blue", "c2"), second))
	both := state(t, backend)
	must(t, h.AddMasquerade(owner("blue", "c3"), first))
	if got := state(t, backend); got != both || !strings.Contains(got, "10.1.0.0/24") || !strings.Contains(got, "fd00:2::/64") {
		t.Errorf("got\n%s\nwant what it was with two subnets,\n%s", got, both)
	}
	for container, m := range map[string]Masquerade{"c1": first, "c2": second} {
		if diffs, err := h.CheckMasquerade(owner("blue", container), m); err != nil || len(diffs) > 0 {
			t.Errorf("CheckMasquerade of %s: got %q, %v, want no difference", container, diffs, err)
		}
	}
	for _, container := range []string{"c1", "c2", "c3"} {
		must(t, h.Release(owner("blue", container)))
	}
	nothingLeft(t, h)
}

func TestMasqueradeFollowsAnEditedConfig(t *testing.T) { both(t, "", masqueradeFollowsAnEditedConfig) }

func masqueradeFollowsAnEditedConfig(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	must(t, h.AddMasquerade(owner("blue", "c1"), Masquerade{Prefixes: prefixes("10.1.0.0/24")}))
	edited := Masquerade{Prefixes: prefixes("10.1.0.0/24"), Exclude: prefixes("10.0.0.0/8")}
	diffs, err := h.CheckMasquerade(owner("blue", "c1"), edited)
	must(t, err)
	if len(diffs) == 0 || !strings.Contains(diffs[0], "blue") {
		t.Errorf("CheckMasquerade of the edited config: got %q, want that the rule is another one", diffs)
	}
	must(t, h.AddMasquerade(owner("blue", "c2"), edited))
	if got := state(t, backend); strings.Count(strings.ToLower(got), "masquerade") != 1 || !strings.Contains(got, "10.0.0.0/8") {
		t.Errorf("ruleset: got\n%s\nwant the edited rule alone", got)
	}
	must(t, h.Release(owner("blue", "c1")))
	must(t, h.Release(owner("blue", "c2")))
	nothingLeft(t, h)
}

func TestMasqueradeIsRestored(t *testing.T) { both(t, "", masqueradeIsRestored) }

func masqueradeIsRestored(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	m := Masquerade{Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), SNAT6: netip.MustParseAddr("2001:db8::1")}
	must(t, h.AddMasquerade(owner("blue", "c1"), m))
	must(t, h.AddMasquerade(owner("red", "c1"), Masquerade{Prefixes: prefixes("10.2.0.0/24")}))
	before := state(t, backend)
	flush(t)
	if diffs, err := h.CheckMasquerade(owner("blue", "c1"), m); err != nil || len(diffs) == 0 {
		t.Errorf("CheckMasquerade after a flush: got %q, %v, want some difference", diffs, err)
	}
	must(t, h.Restore())
	must(t, h.Restore())
	if got := state(t, backend); got != before {
		t.Errorf("ruleset after Restore: got\n%s\nwant\n%s", got, before)
	}
}

func TestMasqueradeIsCollected(t *testing.T) { both(t, "", masqueradeIsCollected) }

func masqueradeIsCollected(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	m := Masquerade{Prefixes: prefixes("10.1.0.0/24")}
	must(t, h.AddMasquerade(owner("blue", "dead"), m))
	must(t, h.AddMasquerade(owner("red", "other"), Masquerade{Prefixes: prefixes("10.2.0.0/24")}))
	must(t, h.GC("blue", cni.Valid{}))
	if got := state(t, backend); !strings.Contains(got, `"blue/`) {
		t.Errorf("ruleset after GC without a list: got\n%s\nwant the rule of blue still", got)
	}
	must(t, h.GC("blue", cni.Valid{Known: true}))
	if got := state(t, backend); strings.Contains(got, `"blue/`) || !strings.Contains(got, `"red/`) {
		t.Errorf("ruleset after GC of blue: got\n%s\nwant the rule of red alone", got)
	}
}

// TestMasqueradeMostComparisons: the kernel accepts a rule with maxCompared destinations, and
// with one more the network has a chain.
func TestMasqueradeMostComparisons(t *testing.T) {
	for exclusions, want := range map[int]int{maxCompared - 2: 0, maxCompared - 1: 2} {
		t.Run(fmt.Sprint(exclusions), func(t *testing.T) {
			h := openHost(t, NFTables)
			m := Masquerade{
				Prefixes: prefixes("10.1.0.0/23", "fd00:1::/65"), RandomFully: true,
				SNAT4: netip.MustParseAddr("192.0.2.1"), SNAT6: netip.MustParseAddr("2001:db8::1"),
			}
			for i := range exclusions {
				m.Exclude = append(m.Exclude, prefixes(fmt.Sprintf("172.16.%d.0/23", 2*i), fmt.Sprintf("fd00:2:%d::/65", i))...)
			}
			must(t, h.AddMasquerade(owner("blue", "c1"), m))
			if diffs, err := h.CheckMasquerade(owner("blue", "c1"), m); err != nil || len(diffs) > 0 {
				t.Errorf("CheckMasquerade: got %q, %v, want no difference", diffs, err)
			}
			if got := strings.Count(golden.Ruleset(t), "chain masquerade_"); got != want {
				t.Errorf("got %d chains of the network's own, want %d", got, want)
			}
			must(t, h.Release(owner("blue", "c1")))
			nothingLeft(t, h)
		})
	}
}

// TestMasqueradeOfManySubnets: each container has a subnet of its own, more than a rule can
// compare with, and another network is there as well.
func TestMasqueradeOfManySubnets(t *testing.T) { both(t, "", masqueradeOfManySubnets) }

func masqueradeOfManySubnets(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	subnet := func(i int) Masquerade {
		return Masquerade{Prefixes: prefixes(fmt.Sprintf("10.60.%d.0/30", i), fmt.Sprintf("fd00:%d::/64", i))}
	}
	container := func(i int) cni.Owner { return owner("blue", fmt.Sprintf("c%d", i)) }
	red := Masquerade{Prefixes: prefixes("10.2.0.0/24")}
	must(t, h.AddMasquerade(owner("red", "c1"), red))
	const many = maxCompared + 5
	for i := range many {
		must(t, h.AddMasquerade(container(i), subnet(i)))
	}
	same := func(when string) {
		t.Helper()
		for _, i := range []int{0, many - 1} {
			if diffs, err := h.CheckMasquerade(container(i), subnet(i)); err != nil || len(diffs) > 0 {
				t.Errorf("%s: CheckMasquerade of %s: got %q, %v, want no difference", when, container(i), diffs, err)
			}
		}
		if diffs, err := h.CheckMasquerade(owner("red", "c1"), red); err != nil || len(diffs) > 0 {
			t.Errorf("%s: CheckMasquerade of red: got %q, %v, want no difference", when, diffs, err)
		}
	}
	same("after ADD")
	flush(t)
	if diffs, err := h.CheckMasquerade(container(0), subnet(0)); err != nil || len(diffs) == 0 {
		t.Errorf("CheckMasquerade after a flush: got %q, %v, want some difference", diffs, err)
	}
	must(t, h.Restore())
	same("after a flush and Restore")
	for i := 1; i < many; i++ {
		must(t, h.Release(container(i)))
	}
	edited := subnet(0)
	edited.RandomFully = true // asked for by nobody yet, so that the rules are rebuilt
	must(t, h.AddMasquerade(container(0), edited))
	if got := state(t, backend); strings.Contains(got, "10.60.1.0") || strings.Contains(got, "chain masquerade_") {
		t.Errorf("ruleset with one subnet left: got\n%s\nwant nothing of the others, and no chain for many", got)
	}
	must(t, h.Release(container(0)))
	must(t, h.Release(owner("red", "c1")))
	nothingLeft(t, h)
}

// The number of addresses without a subnet, as static assigns them, is not limited.
func TestMasqueradeSingleAddresses(t *testing.T) { both(t, "", masqueradeSingleAddresses) }

func masqueradeSingleAddresses(t *testing.T, backend Backend) {
	h := openHost(t, backend)
	for i := range maxCompared + 5 {
		o := owner("blue", fmt.Sprintf("c%d", i))
		m := Masquerade{Prefixes: prefixes(fmt.Sprintf("10.1.0.%d/32", i+1))}
		must(t, h.AddMasquerade(o, m))
		if diffs, err := h.CheckMasquerade(o, m); err != nil || len(diffs) > 0 {
			t.Fatalf("CheckMasquerade of %s: got %q, %v, want no difference", o, diffs, err)
		}
	}
}

// TestMasqueradeAsLastAsked: after an edit of the network's configuration the masquerade of
// the newest attachment applies, in whatever order records are listed.
func TestMasqueradeAsLastAsked(t *testing.T) {
	t.Parallel()
	asked := func(id string, at int64, exclude ...netip.Prefix) attachmentRecord {
		m := Masquerade{Prefixes: prefixes("10.1.0.0/24"), Exclude: exclude}
		return attachmentRecord{
			Owner: owner("blue", id), Stamp: record.Stamp{Time: time.Unix(at, 0)},
			Value: translation{Masquerade: &recordedMasquerade{Backend: NFTables, Masquerade: m}},
		}
	}
	before, after := asked("c1", 1000), asked("c2", 1001, prefixes("192.0.2.0/24")...)
	for _, all := range [][]attachmentRecord{{before, after}, {after, before}} {
		got := rulesOf(all, NFTables).Networks
		if len(got) != 1 || len(got[0].Exclude) != 1 {
			t.Errorf("%s first: got %+v, want one rule, with the exclusion", all[0].Owner.ContainerID, got)
		}
	}
}

// TestMasqueradeManyAndFew: a network whose destinations fit into one rule again loses its own
// chain, and other networks keep theirs; and the other way round.
func TestMasqueradeManyAndFew(t *testing.T) {
	var many []netip.Prefix
	for i := range maxCompared {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), 24))
	}
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(string(backend), func(t *testing.T) {
			h := openHost(t, backend)
			must(t, h.AddMasquerade(owner("other", "c1"), Masquerade{Prefixes: prefixes("10.2.0.0/24", "fd00:2::/64"), Exclude: append(prefixes("fd00::/8"), many...)}))
			few := Masquerade{Prefixes: prefixes("10.1.0.0/24"), Exclude: prefixes("192.0.2.0/24")}
			must(t, h.AddMasquerade(owner("blue", "c1"), few))
			want := state(t, backend)
			lines := func(s string) string {
				all := strings.Split(s, "\n")
				slices.Sort(all)
				return strings.Join(all, "\n")
			}
			for range 2 {
				must(t, h.AddMasquerade(owner("blue", "c1"), Masquerade{Prefixes: few.Prefixes, Exclude: many}))
				if got := state(t, backend); strings.Contains(got, "192.0.2.0") || lines(got) == lines(want) {
					t.Errorf("many: got\n%s", got)
				}
				must(t, h.AddMasquerade(owner("blue", "c1"), few))
				if got := state(t, backend); lines(got) != lines(want) {
					t.Errorf("few again: got\n%s\nwant\n%s", got, want)
				}
			}
			for _, network := range []string{"blue", "other"} {
				must(t, h.Release(owner(network, "c1")))
			}
			nothingLeft(t, h)
		})
	}
}
