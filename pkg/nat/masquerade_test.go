package nat

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/test/golden"
)

func TestMasqueradeRules(t *testing.T) {
	for name, m := range map[string]Masquerade{
		"ipv4":      {Prefixes: prefixes("10.1.0.0/24")},
		"odd":       {Prefixes: prefixes("10.1.16.0/20", "10.9.0.4/32")},
		"dual":      {Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64")},
		"exclude":   {Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), Exclude: prefixes("192.168.0.0/16", "10.0.0.0/8", "fd00::/8")},
		"fixed":     {Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), SNAT4: netip.MustParseAddr("192.0.2.1"), SNAT6: netip.MustParseAddr("2001:db8::1")},
		"random":    {Prefixes: prefixes("10.1.0.0/24"), RandomFully: true},
		"fixedrand": {Prefixes: prefixes("10.1.0.0/24"), RandomFully: true, SNAT4: netip.MustParseAddr("192.0.2.1")},
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

// A network may have several subnets, of which a container is in one.
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
