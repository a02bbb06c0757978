package nat

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// TestReferencePorts decodes rules as the reference plugin portmap 1.9.1 makes them.
func TestReferencePorts(t *testing.T) {
	tcp := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{6}}}
	dport := func(port uint16) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		}
	}
	daddr := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Register: 1, Data: []byte{127, 0, 0, 1}},
	}
	comment := xt.Comment(`dnat name: "net" id: "old"`)
	multiport := xt.Unknown(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16([]byte{1, 2}, 9000), 9001))
	multiport = append(multiport, make([]byte, 42)...)
	other := multiport
	nft := func(parts ...[]expr.Any) *nftables.Rule {
		rule := &nftables.Rule{UserData: userdata.AppendString(nil, userdata.TypeComment, "old")}
		for _, part := range parts {
			rule.Exprs = append(rule.Exprs, part...)
		}
		return rule
	}
	iptables := &nftables.Rule{Exprs: append(tcp[:2:2], &expr.Match{Name: "comment", Info: &comment}, &expr.Match{Name: "multiport", Info: &multiport})}

	for _, test := range []struct {
		name      string
		rule      *nftables.Rule
		host      string
		protocol  Protocol
		container string
		want      bool
	}{
		{"nftables", nft(tcp, dport(9000)), "0.0.0.0:9000", TCP, "new", true},
		{"nftables, another port", nft(tcp, dport(9000)), "0.0.0.0:9001", TCP, "new", false},
		{"nftables, another protocol", nft(tcp, dport(9000)), "0.0.0.0:9000", UDP, "new", false},
		{"nftables, the other family", nft(tcp, dport(9000)), "[::]:9000", TCP, "new", false},
		{"nftables, the same container", nft(tcp, dport(9000)), "0.0.0.0:9000", TCP, "old", false},
		{"nftables, one of all addresses", nft(tcp, dport(9000)), "192.0.2.1:9000", TCP, "new", true},
		{"nftables, the same address", nft(daddr, tcp, dport(9000)), "127.0.0.1:9000", TCP, "new", true},
		{"nftables, all addresses beside one", nft(daddr, tcp, dport(9000)), "0.0.0.0:9000", TCP, "new", true},
		{"nftables, another address", nft(daddr, tcp, dport(9000)), "192.0.2.1:9000", TCP, "new", false},
		{"iptables", iptables, "0.0.0.0:9000", TCP, "new", true},
		{"iptables, the second port", iptables, "0.0.0.0:9001", TCP, "new", true},
		{"iptables, another port", iptables, "0.0.0.0:9002", TCP, "new", false},
		{"iptables, the same container", iptables, "0.0.0.0:9000", TCP, "old", false},
		{"a match that we do not know", nft(tcp, []expr.Any{&expr.Match{Name: "set", Info: &other}}), "0.0.0.0:9000", TCP, "new", false},
		{"another's rule", &nftables.Rule{Exprs: []expr.Any{&expr.Counter{}}}, "0.0.0.0:9000", TCP, "new", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			mapping := Mapping{Protocol: test.protocol, Host: netip.MustParseAddrPort(test.host)}
			f := ownedPorts{Owner: cni.Owner{Network: "net", ContainerID: test.container, IfName: "eth0"}, Ports: Ports{Mappings: []Mapping{mapping}}}
			taken := readReferencePorts(test.rule)
			taken.is4 = true
			if got := taken.inWayOf(f); got != test.want {
				t.Errorf("got %v of %+v, want %v", got, taken, test.want)
			}
		})
	}
}
