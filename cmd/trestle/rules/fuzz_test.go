package rules

import (
	"net/netip"
	"testing"
)

// FuzzIPTables: any line becomes a rule that can be matched with any packet.
func FuzzIPTables(f *testing.F) {
	for _, line := range []string{
		`-A FORWARD -i br0 ! -o br0 -s 10.0.0.0/8 -d 10.1.0.2/32 -p tcp -m tcp --dport 80:90 -m conntrack --ctstate NEW,DNAT -m comment --comment "a \"b\" c" -c 1 2 -j ACCEPT`,
		`-A PREROUTING -m addrtype --dst-type LOCAL -m multiport --dports 1,2:3 -m mark --mark 0x4000/0x4000 -g CHAIN`,
		`-A INPUT -m set --match-set x src -j DNAT --to-destination [fd00::2]:53`, `-A`, `-A X -j`, `-A X -c`, `! ! -p`, `"`,
	} {
		f.Add(line)
	}
	packets := []Packet{
		{},
		{In: "br0", Out: "eth0", Source: netip.MustParseAddr("10.1.0.2"), Destination: netip.MustParseAddr("192.0.2.1"), Protocol: "tcp", Port: 80, Answer: true},
		{In: "eth0", Source: netip.MustParseAddr("fd00::1"), Destination: netip.MustParseAddr("fd00::2"), Protocol: "udp", Port: 53, Translated: true, Local: true},
	}
	f.Fuzz(func(t *testing.T, line string) {
		r := parseIPTables(line)
		for _, p := range packets {
			if got := r.matches(p); got != No && got != Maybe && got != Yes {
				t.Errorf("got %d", got)
			}
		}
	})
}
