package iptables

import (
	"bytes"
	"io"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// TestNative: rules that the program writes are found and deleted by netlink, and the other
// way round.
func TestNative(t *testing.T) {
	for _, f := range Families() {
		t.Run(f.Program, func(t *testing.T) {
			inNamespace(t)
			conn := nft.Open(t.TempDir())
			defer conn.Close()
			program := f.variant("nft")
			address := netip.MustParseAddr(map[bool]string{true: "10.1.0.5", false: "fd00::5"}[f.IPv4])
			all := []Accept{
				{Out: "br0", States: Translated},
				{Destination: address, States: RelatedEstablished},
				{Source: address},
			}
			var lines []string
			for _, a := range all {
				lines = append(lines, a.Line("OURS"))
			}
			if err := Restore(program, "filter", append([]string{":OURS - [0:0]", ":ADMIN - [0:0]", "-I OURS 1 -m comment --comment \"x\" -j ADMIN"}, lines...)); err != nil {
				t.Fatal(err)
			}
			chain, there, err := Native(conn, program, "filter", "OURS")
			if err != nil || !there {
				t.Fatalf("got %v, %v, want the chain found", there, err)
			}
			read := func() Rules {
				t.Helper()
				rules, err := chain.Rules()
				if err != nil {
					t.Fatal(err)
				}
				return rules
			}
			saved := func() []string {
				t.Helper()
				table, err := Save(program, "filter")
				if err != nil {
					t.Fatal(err)
				}
				return table.In["OURS"][1:]
			}
			rules := read()
			reload(t)
			loaded := read()
			for i, a := range all {
				if !rules.Has(a) || !loaded.Has(a) {
					t.Errorf("the program's rule %q: got %v, loaded by nft %v, want it known", lines[i], rules.Has(a), loaded.Has(a))
				}
			}
			if !loaded.JumpTo("ADMIN") || !loaded.Understood(all) {
				t.Error("loaded by nft: want a jump to ADMIN, and all of it understood")
			}
			if err := loaded.Delete(all); err != nil || len(read().found) != 1 {
				t.Errorf("loaded by nft: got %v, %d rules left, want the jump", err, len(read().found))
			}
			if err := chain.Append(all); err != nil {
				t.Fatal(err)
			}
			rules = read()
			if !rules.JumpTo("ADMIN") || rules.JumpTo("OURS") || !rules.Understood(all) {
				t.Error("want a jump to ADMIN, none to OURS, and all of it understood")
			}
			if err := rules.Delete(all); err != nil || len(saved()) > 0 {
				t.Fatalf("got %v, %q left, want nothing", err, saved())
			}
			if err := chain.Append(all); err != nil {
				t.Fatal(err)
			}
			if got := saved(); !slices.Equal(got, lines) {
				t.Errorf("the program prints %q, want %q", got, lines)
			}
			for _, line := range lines { // as the reference plugin deletes them
				if err := Restore(program, "filter", []string{"-D" + strings.TrimPrefix(line, "-A")}); err != nil {
					t.Error(err)
				}
			}
			if err := Restore(program, "filter", []string{"-A OURS -s " + address.String() + " -p tcp -j ACCEPT"}); err != nil {
				t.Fatal(err)
			}
			if rules := read(); rules.Understood(all) || rules.Has(all[2]) {
				t.Error("a rule that is another is taken for one of ours")
			}
		})
	}
	if _, there, err := Native(nil, "iptables-legacy", "filter", "OURS"); there || err != nil {
		t.Errorf("got %v, %v, want nothing of the legacy variant in nftables", there, err)
	}
}

// reload saves all rules and loads them again, by nft.
func reload(t *testing.T) {
	t.Helper()
	saved, err := exec.CommandContext(t.Context(), "nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	load := exec.CommandContext(t.Context(), "nft", "-f", "-")
	load.Stdin = io.MultiReader(strings.NewReader("flush ruleset\n"), bytes.NewReader(saved))
	if output, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}

// TestRulesAbout: of a chain with rules of many containers only those about one are decoded.
func TestRulesAbout(t *testing.T) {
	inNamespace(t)
	conn := nft.Open(t.TempDir())
	defer conn.Close()
	lines := []string{":OURS - [0:0]", "-A OURS -o br0 -j ACCEPT", "-A OURS -s 10.1.0.5/32 -p tcp -j DROP"}
	about := func(address string) []Accept {
		a := netip.MustParseAddr(address)
		return []Accept{{Destination: a, States: RelatedEstablished}, {Source: a}}
	}
	for _, a := range slices.Concat(about("10.1.0.5"), about("10.1.0.6"), about("10.1.0.7")) {
		lines = append(lines, a.Line("OURS"))
	}
	if err := Restore("iptables-nft", "filter", lines); err != nil {
		t.Fatal(err)
	}
	chain, there, err := Native(conn, "iptables-nft", "filter", "OURS")
	if err != nil || !there {
		t.Fatalf("got %v, %v, want the chain found", there, err)
	}
	for address, want := range map[string]int{"10.1.0.5": 3, "10.1.0.6": 2, "10.1.0.8": 0} {
		rules, err := chain.RulesAbout(about(address))
		if err != nil || len(rules.found) != want || rules.Understood(about(address)) != (want != 3) {
			t.Errorf("%s: got %d rules, %v, want %d", address, len(rules.found), err, want)
		}
	}
	if rules, err := chain.Rules(); err != nil || len(rules.found) != 8 {
		t.Errorf("got %d rules, %v, want all 8", len(rules.found), err)
	}
}
