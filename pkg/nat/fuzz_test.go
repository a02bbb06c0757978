package nat

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
)

// FuzzReadPorts: any keys are refused with a code of the spec for bad configuration, or give
// rules that each backend can write.
func FuzzReadPorts(f *testing.F) {
	f.Add([]byte(`{"snat":true,"masqAll":true,"markMasqBit":13,"conditionsV4":["-s","10.0.0.0/8"],"backend":"iptables","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}]}}`))
	f.Add([]byte(`{"externalSetMarkChain":"KUBE-MARK-MASQ","runtimeConfig":{"portMappings":[{"hostPort":53,"containerPort":53,"protocol":"udp"},{"hostPort":9,"containerPort":9,"protocol":"SCTP","hostIP":"::"}]}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		r := &cni.Request{Command: cni.Add, Version: "1.1.0", Stdin: config}
		settings, err := ReadPorts(r)
		if err != nil {
			mustBeRefusal(t, err)
			return
		}
		ports, err := settings.For([]netip.Prefix{netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("fd00::2/64")}, []string{"br0"})
		if err != nil {
			mustBeRefusal(t, err)
			return
		}
		owner := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
		render(ruleset{Ports: []ownedPorts{{owner, ports}}})
	})
}

func mustBeRefusal(t *testing.T, err error) {
	t.Helper()
	switch cni.CodeOf(err) {
	case cni.CodeUnsupported, cni.CodeConfig, cni.CodeDecode:
	default:
		t.Errorf("code %d: %v", cni.CodeOf(err), err)
	}
}

// render makes the rules of each backend.
func render(rules ruleset) {
	_, _ = masqueradeTable(rules.Networks...).Whole() // for its panics
	for _, p := range rules.Ports {
		p.elements()
	}
	for _, f := range families() {
		rules.ipRules(f)
	}
}

// FuzzRecord: a damaged record is ignored, or makes rules that the kernel may refuse; nothing
// panics.
func FuzzRecord(f *testing.F) {
	owner := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
	web := Mapping{TCP, netip.MustParseAddrPort("0.0.0.0:8080"), netip.MustParseAddrPort("10.1.0.2:80")}
	whole, err := json.Marshal(attachmentRecord{Owner: owner, Value: translation{
		Masquerade: &recordedMasquerade{NFTables, Masquerade{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}},
		Ports:      &recordedPorts{NFTables, Ports{Mappings: []Mapping{web}, Bridge: "br0", HostAddress: netip.MustParseAddr("10.1.0.1")}, true},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"Owner":{"Network":"net"},"Value":{"Ports":{"Backend":"iptables","Mappings":[{}],"Subnets":[""]},"Masquerade":{"Backend":"iptables","Prefixes":[""]}}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var r attachmentRecord
		if json.Unmarshal(data, &r) != nil {
			return
		}
		for _, backend := range []Backend{NFTables, IPTables} {
			render(rulesOf([]attachmentRecord{r}, backend))
		}
	})
}

// FuzzFound: rules of iptables may be any program's; nothing panics.
func FuzzFound(f *testing.F) {
	f.Add("*nat\n:PREROUTING ACCEPT [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-DN-x - [0:0]\n" +
		"-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"net/c1/eth0 x\" -m multiport --dports 8080,8081 -j CNI-DN-x\n" +
		"-A CNI-DN-x -d 10.0.0.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80\nCOMMIT\n")
	f.Add("-A CNI-HOSTPORT-DNAT -m comment --comment \"dnat name: \\\"n\\\" id: \\\"c\\\"\" -j CNI-DN-y\n-A CNI-DN-y -p udp -j DNAT --to-destination [fd00::2]:53")
	f.Fuzz(func(_ *testing.T, text string) {
		table := ipTable{iptables.ParseTable(text)}
		for _, family := range families() {
			for _, j := range table.jumps() {
				table.mappings(j.chain, family)
				var p Ports
				table.read(j.chain, family, &p)
			}
		}
		table.chainsOfOurs()
		table.former()
	})
}

// FuzzFlow: any message about a tracked flow is decoded as a flow or is an error.
func FuzzFlow(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 12, 0, 0, 0, 0, 1, 20, 0, 1, 128, 16, 0, 1, 128, 8, 0, 1, 0, 192, 0, 2, 1})
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = decodeFlow(data) }) // it must not panic
}
