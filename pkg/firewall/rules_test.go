package firewall

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/record"
)

func request(config string) *cni.Request {
	return &cni.Request{Command: cni.Add, Version: "1.0.0", Stdin: []byte(config)}
}

func TestParseConfig(t *testing.T) {
	for _, test := range []struct {
		name, config string
		want         Config
	}{
		{"podman's", `{"backend": ""}`, Config{Policy: policyOpen, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
		{"nerdctl's", `{"ingressPolicy": "same-bridge"}`, Config{Policy: policySameBridge, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
		{
			"nomad's", `{"backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"}`,
			Config{Backend: backendIPTables, Policy: policyOpen, AdminChain: "NOMAD-ADMIN", AdminChosen: true, Zone: "trusted"},
		},
		{
			"firewalld", `{"backend": "firewalld", "firewalldZone": "pods", "ingressPolicy": "isolated"}`,
			Config{Backend: backendFirewalld, Policy: policyIsolated, AdminChain: "CNI-ADMIN", Zone: "pods"},
		},
		{"exposure as Docker's", `{"ingressPolicy": "published"}`, Config{Policy: policyPublished, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
		{"internal", `{"internal": true}`, Config{Policy: policyOpen, Internal: true, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
		{"nftables", `{"backend": "nftables", "ingressPolicy": "open"}`, Config{Backend: backendNFTables, Policy: policyOpen, AdminChain: "CNI-ADMIN", Zone: "trusted"}},
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
		{"policy", `{"ingressPolicy": "closed"}`, 7, `ingressPolicy: unknown "closed"; use "open", "same-bridge", "isolated" or "published"`},
		{"internal", `{"internal": "yes"}`, 6, "internal"},
		{"long chain", `{"iptablesAdminChainName": "A2345678901234567890123456789"}`, 7, "iptablesAdminChainName"},
		{"chain of two words", `{"iptablesAdminChainName": "A -j ACCEPT"}`, 7, "iptablesAdminChainName"},
		{"the kernel's chain", `{"iptablesAdminChainName": "FORWARD"}`, 7, "iptablesAdminChainName"},
		{"our chain", `{"iptablesAdminChainName": "CNI-FORWARD"}`, 7, "iptablesAdminChainName"},
		{"zone", `{"firewalldZone": "../x"}`, 7, "firewalldZone"},
		{"type", `{"backend": 1}`, 6, "backend: a number stands where text belongs"},
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

func rules(t *testing.T, policy policy) Rules {
	t.Helper()
	r := Rules{
		Interfaces: []string{"br0"}, AdminChain: defaultAdminChain, Programs: []string{"iptables", "ip6tables"}, Zone: "trusted",
		Addresses: addressesOf(result(t, `{"ips": [{"address": "10.1.0.5/24"}, {"address": "fd00::5/64"}]}`)),
	}
	if err := r.withPolicy(Config{Policy: policy}, links{routed: []string{"br0"}}, []string{"veth1"}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEntries(t *testing.T) {
	asked := []string{
		"iptables-admin-CNI-ADMIN", "iptables-mapped-br0", "iptables-address-10.1.0.5",
		"ip6tables-admin-CNI-ADMIN", "ip6tables-mapped-br0", "ip6tables-address-fd00::5",
		"zone-trusted-address-10.1.0.5", "zone-trusted-address-fd00::5",
	}
	for _, test := range []struct {
		policy policy
		want   []string
	}{
		{policyOpen, nil},
		{policySameBridge, []string{"nftables-bridge-br0"}},
		{policyIsolated, []string{"nftables-bridge-br0", "nftables-isolated-br0"}},
		{policyPublished, []string{"nftables-published-br0"}},
	} {
		entries := rules(t, test.policy).entries(owner)
		if got, want := shares(entries), slices.Concat(test.want, asked); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", test.policy, got, want)
		}
		ports := slices.DeleteFunc(entries, func(e entry) bool { return e.kind != portEntry })
		if got, want := len(ports) == 1 && ports[0].value == "veth1", test.policy == policyIsolated; got != want {
			t.Errorf("%s: got ports %v", test.policy, ports)
		}
	}
	for _, c := range []Config{{Policy: policySameBridge}, {Policy: policyPublished}, {Policy: policyOpen, Internal: true}} {
		var r Rules
		if err := r.withPolicy(c, links{}, nil); cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), r.key()) {
			t.Errorf("%v: got %v, want an error of code 7 for %s without a bridge", c, err, r.key())
		}
	}
}

// TestUnshared: an entry is unshared if no other owner with a record has it.
func TestUnshared(t *testing.T) {
	h := Open(record.Open(t.TempDir()))
	other := cni.Owner{Network: "m", ContainerID: "c2", IfName: "eth0"}
	mine, theirs := rules(t, policyIsolated), rules(t, policyIsolated)
	theirs.Ports, theirs.Addresses, theirs.Zone = []string{"veth2"}, nil, ""
	for o, r := range map[cni.Owner]Rules{owner: mine, other: theirs} {
		if err := record.Write(h.records, place, ruleRecord{Owner: o, Shares: shares(r.entries(o)), Value: r}); err != nil {
			t.Fatal(err)
		}
	}
	read, there, err := record.Read[Rules](h.records, place, owner)
	if diff := cmp.Diff(mine, read.Value, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || !there || diff != "" {
		t.Errorf("got %v, %v, want what was written:\n%s", there, err, diff)
	}
	free := func() (all []string) {
		t.Helper()
		entries, err := h.unshared(mine.entries(owner), owner)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			all = append(all, string(e.kind)+" "+e.value)
		}
		return all
	}
	want := []string{"port veth1", "address 10.1.0.5", "address fd00::5", "address 10.1.0.5", "address fd00::5"}
	if got := free(); !slices.Equal(got, want) {
		t.Errorf("got %q free, want %q", got, want)
	}
	if err := os.Remove(h.records.Path(place, other)); err != nil {
		t.Fatal(err)
	}
	if got := free(); len(got) != len(mine.entries(owner)) {
		t.Errorf("the other's record is lost: got %q free, want all", got)
	}
}

// TestFormer: records of the release before pkg/record are converted.
func TestFormer(t *testing.T) {
	var former formerRecord
	const text = `{"Owner":{"Network":"n","ContainerID":"c1","IfName":"eth0"},"Rules":{"Policy":"isolated","Interfaces":["br0"],"Ports":["veth1"],
		"Addresses":["10.1.0.5","fd00::5"],"Forwards":[{"Program":"iptables","IPv4":true},{"Program":"ip6tables","IPv4":false}],"Zone":"trusted","AdminChain":"CNI-ADMIN"}}`
	if err := json.Unmarshal([]byte(text), &former); err != nil {
		t.Fatal(err)
	}
	want := rules(t, policyIsolated)
	want.IPTables = ifThere
	if diff := cmp.Diff(want, former.now().Value, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || former.Owner != owner {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func table(lines ...string) iptables.Table { return iptables.ParseTable(strings.Join(lines, "\n")) }

const (
	mappedRule   = "-A CNI-FORWARD -o br0 -m conntrack --ctstate DNAT -j ACCEPT"
	answersRule  = "-A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
	departsRule  = "-A CNI-FORWARD -s 10.1.0.5/32 -j ACCEPT"
	strangerRule = "-A CNI-FORWARD -s 10.1.0.6/32 -j ACCEPT"
)

func TestAdditions(t *testing.T) {
	entries := inPlace(rules(t, policyOpen).entries(owner), "iptables")
	base := []string{":CNI-FORWARD - [0:0]", ":CNI-ADMIN - [0:0]", "-I FORWARD 1 " + ourComment + " -j CNI-FORWARD", "-I CNI-FORWARD 1 " + adminComment + " -j CNI-ADMIN"}
	for _, test := range []struct {
		name string
		have iptables.Table
		want []string
	}{
		{"nothing there", table(":FORWARD DROP"), append(base, mappedRule, answersRule, departsRule)},
		{"another container's", table(":CNI-FORWARD -", ":CNI-ADMIN -", ourJump(), adminJump("CNI-ADMIN"), mappedRule, strangerRule), []string{answersRule, departsRule}},
		{"the jump was lost", table(":CNI-FORWARD -", ":CNI-ADMIN -", adminJump("CNI-ADMIN"), mappedRule, answersRule, departsRule), base[2:3]},
		{"all there", table(":CNI-FORWARD -", ":CNI-ADMIN -", ourJump(), adminJump("CNI-ADMIN"), mappedRule, answersRule, departsRule), nil},
	} {
		if got := additions(test.have, append(entries, entries...), defaultAdminChain); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestDeletions(t *testing.T) {
	entries := inPlace(rules(t, policyOpen).entries(owner), "iptables")
	all := []string{":CNI-FORWARD -", ":CNI-ADMIN -", ourJump(), adminJump("CNI-ADMIN"), mappedRule, answersRule, departsRule}
	gone := []string{"-D" + mappedRule[2:], "-D" + answersRule[2:], "-D" + departsRule[2:]}
	idle := []string{"-D FORWARD " + ourComment + " -j CNI-FORWARD", "-F CNI-FORWARD", "-X CNI-FORWARD"}
	for _, test := range []struct {
		name             string
		have             iptables.Table
		want, wantIfIdle []string
	}{
		{"ours", table(all...), gone, nil},
		{"ours and another's", table(append(all, strangerRule)...), gone, nil},
		{"one twice", table(append(all, departsRule)...), append(slices.Clone(gone), gone[2]), nil},
		{"nothing", table(":FORWARD DROP", "-A FORWARD -j DROP"), nil, nil},
		{"nobody is let through", table(all[:4]...), nil, idle},
		{"two jumps, by a race of the reference plugin's", table(append(all[:4:4], ourJump())...), nil, append(idle[:1:1], idle...)},
	} {
		if got := deletions(test.have, entries); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if got := idleChain(test.have); !slices.Equal(got, test.wantIfIdle) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.wantIfIdle)
		}
	}
}
