package rules

import (
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// on returns what Read finds after a script has run, in a new network namespace.
func on(t *testing.T, script string) Host {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test, and the namespace with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	conn := nft.Open(t.TempDir())
	t.Cleanup(conn.Close)
	h, err := Read(conn)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// packet opens a connection from 10.1.0.5, from br0 to up0.
func packet(change func(*Packet)) Packet {
	p := Packet{In: "br0", Out: "up0", Source: netip.MustParseAddr("10.1.0.5"), Destination: netip.MustParseAddr("192.0.2.9"), Protocol: "tcp", Port: 8080}
	if change != nil {
		change(&p)
	}
	return p
}

func TestWalk(t *testing.T) {
	nftables := func(rules string) string {
		return `nft '
			table inet w { set names { type ifname; elements = { "br0", "br1" }; }; set nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/15, 10.4.0.0/16 }; };
			set pairs { type ifname . ifname; elements = { "br0" . "up0" }; }; set none { type ifname; };
			chain inner { ` + rules + `; }; chain f { type filter hook forward priority 0; policy drop; jump inner; }; }'`
	}
	for _, test := range []struct {
		name, script string
		change       func(*Packet)
		want         Verdict
		maybe        bool
	}{
		{"no rules", "true", nil, Accept, false},
		{"a policy", "iptables -P FORWARD DROP", nil, Drop, false},
		{"legacy", "iptables-legacy -P FORWARD DROP", nil, Drop, false},
		{"of the other family", "ip6tables -P FORWARD DROP", nil, Accept, false},
		{"an interface", "iptables -P FORWARD DROP; iptables -A FORWARD -i br0 -j ACCEPT", nil, Accept, false},
		{"not this one", "iptables -P FORWARD DROP; iptables -A FORWARD ! -i br0 -j ACCEPT", nil, Drop, false},
		{"a name's beginning", "iptables -P FORWARD DROP; iptables -A FORWARD -i br+ -j ACCEPT", nil, Accept, false},
		{"an address", "iptables -P FORWARD DROP; iptables -A FORWARD -s 10.1.0.0/24 -j ACCEPT", nil, Accept, false},
		{"another address", "iptables -A FORWARD -d 192.0.2.9 -j DROP", nil, Drop, false},
		{"a port", "iptables -A FORWARD -p tcp -m tcp --dport 8000:8100 -j REJECT", nil, Drop, false},
		{"of another protocol", "iptables -A FORWARD -p udp -m udp --dport 8080 -j REJECT", nil, Accept, false},
		{"answers", "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", func(p *Packet) { p.Answer = true }, Accept, false},
		{"no answers", "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", nil, Drop, false},
		{"mapped ports", "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT", func(p *Packet) { p.Translated = true }, Accept, false},
		{"a chain, and back", "iptables -P FORWARD DROP; iptables -N X; iptables -A FORWARD -j X; iptables -A X -j RETURN; iptables -A X -j DROP; iptables -A FORWARD -j ACCEPT", nil, Accept, false},
		{"a chain, and not back", "iptables -N X; iptables -A FORWARD -g X; iptables -A FORWARD -j DROP", nil, Accept, false},
		{"what is not known may let through", "iptables -P FORWARD DROP; iptables -A FORWARD -m mark --mark 5 -j ACCEPT", nil, Drop, true},
		{"what is not known may drop", "iptables -A FORWARD -m mark --mark 5 -j DROP", nil, Accept, false},
		{"a remark with blanks", `iptables -A FORWARD -m comment --comment "a -j DROP b" -j ACCEPT`, nil, Accept, false},
		{"a mark", "iptables -P FORWARD DROP; iptables -t mangle -A FORWARD -j MARK --set-mark 1", nil, Drop, false},

		{"nftables: a policy", nftables(""), nil, Drop, false},
		{"nftables: a name in a set", nftables("iifname @names accept"), nil, Accept, false},
		{"nftables: not in the set", nftables("iifname != @names accept"), nil, Drop, false},
		{"nftables: a set without an element", nftables("iifname @none accept"), nil, Drop, false},
		{"nftables: a pair", nftables("iifname . oifname @pairs accept"), nil, Accept, false},
		{"nftables: a set of networks", nftables("ip saddr @nets accept"), nil, Accept, false},
		{"nftables: beside the networks", nftables("ip saddr @nets accept"), func(p *Packet) { p.Source = netip.MustParseAddr("10.2.0.1") }, Drop, false},
		{"nftables: a prefix", nftables("ip saddr 10.1.0.0/20 accept"), nil, Accept, false},
		{"nftables: the other family", nftables("ip6 saddr fd00::/8 accept"), nil, Drop, false},
		{"nftables: ports", nftables("tcp dport { 80, 8080 } accept"), nil, Accept, false},
		{"nftables: a range of ports", nftables("tcp dport 8081-8090 accept"), nil, Drop, false},
		{"nftables: a state", nftables("ct state established,related accept"), func(p *Packet) { p.Answer = true }, Accept, false},
		{"nftables: a status", nftables("ct status dnat accept"), nil, Drop, false},
		{"nftables: reject", nftables("reject"), nil, Drop, false},
		{"nftables: a verdict map", nftables(`iifname vmap { "br0" : accept }`), nil, Accept, false},
		{"nftables: not in the map", nftables(`iifname vmap { "br1" : accept }`), nil, Drop, false},
		{"nftables: a map to a chain", nftables(`iifname vmap { "br0" : jump more }; }; chain more { accept`), nil, Accept, false},
		{"nftables: a map of what is not known", nftables(`meta mark vmap { 5 : accept }`), nil, Drop, true},
		{"nftables: a mark is not known", nftables("meta mark 5 accept"), nil, Drop, true},
		{"nftables: who accepts has no last word", nftables("accept") + `; nft 'table ip x { chain f { type filter hook forward priority 5; oifname "up0" drop; }; }'`, nil, Drop, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := on(t, test.script)
			way, err := Walk(h.At("forward", false), packet(test.change))
			if err != nil || way.Verdict != test.want || way.Maybe != test.maybe {
				t.Errorf("got %s, maybe %v, %v by %+v, want %s, maybe %v", way.Verdict, way.Maybe, err, way.Steps, test.want, test.maybe)
			}
		})
	}
}

// TestTranslate: a chain of type nat ends with the first rule that translates.
func TestTranslate(t *testing.T) {
	for _, script := range []string{
		"iptables -t nat -A PREROUTING -p tcp -m addrtype --dst-type LOCAL --dport 8080 -j DNAT --to-destination 10.1.0.9:80",
		`nft 'table ip x { chain p { type nat hook prerouting priority -100; fib daddr type local tcp dport 8080 redirect to 80; }; }'`,
	} {
		h := on(t, script)
		for _, local := range []bool{true, false} {
			way, err := Walk(h.At("prerouting", false), packet(func(p *Packet) { p.Local = local }))
			if want := map[bool]Verdict{true: Translate, false: Accept}[local]; err != nil || way.Verdict != want {
				t.Errorf("%s: local %v: got %s, %v, want %s", script, local, way.Verdict, err, want)
			}
		}
	}
}

// TestText: rules as their programs print them, and their counters.
func TestText(t *testing.T) {
	h := on(t, `iptables -A FORWARD -i br0 -m comment --comment "a b" -j ACCEPT
nft 'table inet w { chain f { type filter hook forward priority 5; iifname "br0" ip saddr 10.1.0.0/16 tcp dport 80 ct state new,established counter drop comment "c d"; meta nfproto ipv6 oifname != "up0" jump g; }; chain g { fib daddr type local reject; }; }'`)
	want := []string{
		`ip filter FORWARD: -i br0 -m comment --comment "a b" -j ACCEPT true`,
		`inet w f: iifname "br0" meta nfproto ipv4 ip saddr 10.1.0.0/16 meta l4proto tcp dport 80 ct state established,new drop comment "c d" true`,
		`inet w f: meta nfproto ipv6 oifname != "up0" jump g false`,
		`inet w g: fib daddr type local reject false`,
	}
	var got []string
	for _, base := range h.At("forward", false) {
		for _, chain := range []string{base.Chain, "g"} {
			if chain == "g" && base.Program != "nft" {
				continue
			}
			list, err := base.Rules(chain)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list {
				counted := map[bool]string{true: " true", false: " false"}[r.Counted]
				got = append(got, base.Table+" "+chain+": "+r.Text+counted)
			}
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
