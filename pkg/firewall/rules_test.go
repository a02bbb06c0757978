package firewall

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func request(config string) *cni.Request {
	return &cni.Request{Verb: cni.Add, Version: "1.0.0", Stdin: []byte(config)}
}

func TestParseConfig(t *testing.T) {
	for _, test := range []struct {
		name, config string
		want         Config
	}{
		{"podman's", `{"backend": ""}`, Config{Policy: Open, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
		{"nerdctl's", `{"ingressPolicy": "same-bridge"}`, Config{Policy: SameBridge, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
		{
			"nomad's", `{"backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"}`,
			Config{Backend: IPTables, Policy: Open, AdminChain: "NOMAD-ADMIN", AdminChosen: true, Zone: "trusted"},
		},
		{
			"firewalld", `{"backend": "firewalld", "firewalldZone": "pods", "ingressPolicy": "isolated"}`,
			Config{Backend: Firewalld, Policy: Isolated, AdminChain: "CNI-ADMIN", Zone: "pods"},
		},
		{"nftables", `{"backend": "nftables", "ingressPolicy": "open"}`, Config{Backend: NFTables, Policy: Open, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := ParseConfig(request(test.config)); err != nil || got != test.want {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		name, config string
		code         cni.Code
		want         string
	}{
		{"backend", `{"backend": "ufw"}`, 7, `backend: unknown "ufw"`},
		{"policy", `{"ingressPolicy": "closed"}`, 7, `ingressPolicy: unknown "closed"`},
		{"long chain", `{"iptablesAdminChainName": "A2345678901234567890123456789"}`, 7, "iptablesAdminChainName"},
		{"chain of two words", `{"iptablesAdminChainName": "A -j ACCEPT"}`, 7, "iptablesAdminChainName"},
		{"the kernel's chain", `{"iptablesAdminChainName": "FORWARD"}`, 7, "iptablesAdminChainName"},
		{"our chain", `{"iptablesAdminChainName": "CNI-FORWARD"}`, 7, "iptablesAdminChainName"},
		{"zone", `{"firewalldZone": "../x"}`, 7, "firewalldZone"},
		{"type", `{"backend": 1}`, 6, "network configuration"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseConfig(request(test.config))
			if err == nil || cni.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want code %d and %q", err, test.code, test.want)
			}
		})
	}
}

func result(t *testing.T, text string) *cni.Result {
	t.Helper()
	var r cni.Result
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestLinksOf(t *testing.T) {
	for _, test := range []struct {
		name, result string
		want         links
	}{
		{"bridge", `{"interfaces": [{"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}]}`, links{[]string{"br0"}, []string{"veth1"}}},
		{
			"bridge with VLAN and ifb", `{"interfaces": [{"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}, {"name": "br0.100"}, {"name": "bwp1"}]}`,
			links{[]string{"br0", "br0.100"}, []string{"veth1", "bwp1"}},
		},
		{"ptp", `{"interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}]}`, links{routed: []string{"veth1"}}},
		{"no names", `{"interfaces": [{"name": "../x"}, {"name": "a b"}, {"name": "br0"}, {"name": ""}]}`, links{routed: []string{"br0"}}},
		{"macvlan", `{"interfaces": [{"name": "eth0", "sandbox": "/x"}]}`, links{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, linksOf(result(t, test.result)), cmp.AllowUnexported(links{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

var owner = cni.Owner{Network: "n", ContainerID: "c1", IfName: "eth0"}

func rules(t *testing.T, policy Policy) Rules {
	t.Helper()
	r := Rules{
		Interfaces: []string{"br0"}, AdminChain: defaultAdminChain, Forwards: []forward{{"iptables", true}, {"ip6tables", false}}, Zone: "trusted",
		Addresses: addressesOf(result(t, `{"ips": [{"address": "10.1.0.5/24"}, {"address": "fd00::5/64"}]}`)),
	}
	if err := r.withPolicy(policy, links{routed: []string{"br0"}}, []string{"veth1"}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParts(t *testing.T) {
	asked := []string{
		"iptables mapped-br0", "iptables address-10.1.0.5", "ip6tables mapped-br0", "ip6tables address-fd00::5",
		"zone-trusted address-10.1.0.5", "zone-trusted address-fd00::5",
	}
	for _, test := range []struct {
		policy Policy
		want   []string
	}{
		{Open, nil},
		{SameBridge, []string{"inet bridge-br0"}},
		{Isolated, []string{"inet bridge-br0", "inet isolated-br0", "bridge port-veth1"}},
	} {
		var got []string
		for _, p := range rules(t, test.policy).parts() {
			got = append(got, p.place+" "+p.String())
		}
		if want := slices.Concat(test.want, asked); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", test.policy, got, want)
		}
	}
	var r Rules
	if err := r.withPolicy(SameBridge, links{}, nil); cni.CodeOf(err) != cni.CodeConfig {
		t.Errorf("got %v, want an error of code 7 for a policy without a bridge", err)
	}
}

// TestRecords: parts go with their last user, and nothing of a directory is left.
func TestRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "firewall")
	r := records{dir}
	other := cni.Owner{Network: "m", ContainerID: "c2", IfName: "eth0"}
	for _, o := range []cni.Owner{owner, other} {
		mine := rules(t, Isolated)
		if o == other {
			mine.Ports, mine.Addresses = []string{"veth2"}, nil
		}
		if err := r.write(o, mine); err != nil {
			t.Fatal(err)
		}
	}
	rec, there, whole, err := read(r.owner(owner))
	if diff := cmp.Diff(rules(t, Isolated).parts(), rec.Rules.parts(), cmp.AllowUnexported(part{})); err != nil || !there || !whole || rec.Owner != owner || diff != "" {
		t.Fatalf("got %v, %v, %v, %v, want the owner's record:\n%s", rec.Owner, there, whole, err, diff)
	}
	free, empty, err := r.unshared(owner, rec.Rules.parts())
	var names []string
	for _, p := range free {
		names = append(names, p.String())
	}
	want := []string{"port-veth1", "address-10.1.0.5", "address-fd00::5", "address-10.1.0.5", "address-fd00::5"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("got %q, %v free, want %q", names, err, want)
	}
	if empty[inetPlace] || empty[bridgePlace] || empty["iptables"] || !empty["zone-trusted"] {
		t.Errorf("got %v, want the zone alone left empty", empty)
	}
	if err := r.drop(owner, rec.Rules.parts()); err != nil {
		t.Fatal(err)
	}
	rec, _, _, err = read(r.owner(other))
	if err != nil {
		t.Fatal(err)
	}
	free, empty, err = r.unshared(other, rec.Rules.parts())
	if err != nil || len(free) != len(rec.Rules.parts()) || !empty[inetPlace] || !empty[bridgePlace] {
		t.Errorf("got %v, %v, %v, want all free and empty", free, empty, err)
	}
	if err := r.drop(other, rec.Rules.parts()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v left, want nothing", entries, err)
	}
}

func table(lines ...string) saved {
	t := saved{chains: map[string]string{}}
	for _, line := range lines {
		if fields := strings.Fields(line); line[0] == ':' {
			t.chains[fields[0][1:]] = fields[1]
		} else {
			t.rules = append(t.rules, line)
		}
	}
	return t
}

const (
	mappedRule   = "-A CNI-FORWARD -o br0 -m conntrack --ctstate DNAT -j ACCEPT"
	answersRule  = "-A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
	departsRule  = "-A CNI-FORWARD -s 10.1.0.5/32 -j ACCEPT"
	strangerRule = "-A CNI-FORWARD -s 10.1.0.6/32 -j ACCEPT"
)

func TestAdditions(t *testing.T) {
	parts := inPlace(rules(t, Open).parts(), "iptables")
	base := []string{":CNI-FORWARD - [0:0]", ":CNI-ADMIN - [0:0]", "-I FORWARD 1 " + ourComment + " -j CNI-FORWARD", "-I CNI-FORWARD 1 " + adminComment + " -j CNI-ADMIN"}
	for _, test := range []struct {
		name string
		have saved
		want []string
	}{
		{"nothing there", table(":FORWARD DROP"), append(base, mappedRule, answersRule, departsRule)},
		{"another container's", table(":CNI-FORWARD -", ":CNI-ADMIN -", ourJump(), adminJump("CNI-ADMIN"), mappedRule, strangerRule), []string{answersRule, departsRule}},
		{"the jump was lost", table(":CNI-FORWARD -", ":CNI-ADMIN -", adminJump("CNI-ADMIN"), mappedRule, answersRule, departsRule), base[2:3]},
		{"all there", table(":CNI-FORWARD -", ":CNI-ADMIN -", ourJump(), adminJump("CNI-ADMIN"), mappedRule, answersRule, departsRule), nil},
	} {
		if got := test.have.additions(parts, defaultAdminChain); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestDeletions(t *testing.T) {
	parts := inPlace(rules(t, Open).parts(), "iptables")
	all := []string{":CNI-FORWARD -", ":CNI-ADMIN -", ourJump(), adminJump("CNI-ADMIN"), mappedRule, answersRule, departsRule}
	rest := []string{"-D FORWARD " + ourComment + " -j CNI-FORWARD", "-F CNI-FORWARD", "-X CNI-FORWARD"}
	for _, test := range []struct {
		name string
		have saved
		want []string
	}{
		{"the last one", table(all...), append(slices.Clone(rest), "-X CNI-ADMIN")},
		{"the last one, of an admin with rules", table(append(all, "-A CNI-ADMIN -s 10.9.0.1/32 -j DROP")...), rest},
		{"two jumps, by a race of the reference plugin's", table(append(all, ourJump())...), append(append([]string{rest[0]}, rest...), "-X CNI-ADMIN")},
		{"one of two", table(append(all, strangerRule)...), []string{"-D" + mappedRule[2:], "-D" + answersRule[2:], "-D" + departsRule[2:]}},
		{"nothing of ours", table(":FORWARD DROP", "-A FORWARD -j DROP"), nil},
	} {
		if got := test.have.deletions(parts); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestObstructs(t *testing.T) {
	for _, test := range []struct {
		name string
		have saved
		want bool
	}{
		{"no table", table(), false},
		{"accepts", table(":FORWARD ACCEPT", "-A FORWARD -j DOCKER-USER"), false},
		{"policy", table(":FORWARD DROP"), true},
		{"last rule", table(":FORWARD ACCEPT", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"), true},
		{"admin chain", table(":FORWARD ACCEPT", ":CNI-ADMIN -"), true},
	} {
		if got := test.have.obstructs(defaultAdminChain); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
