package doctor

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// empty is a host without anything.
func empty() *Host {
	return &Host{Snapshot: &inventory.Snapshot{}, sysctl: func(string) (string, bool) { return "", false }}
}

// TestNothing: a host without networks has no faults.
func TestNothing(t *testing.T) {
	if found := Examine(empty()); len(found) > 0 {
		t.Errorf("got %+v, want nothing", found)
	}
}

// TestNames: each check has a name of its own.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range Names() {
		if seen[name] || name == "" {
			t.Errorf("%q: empty, or twice", name)
		}
		seen[name] = true
	}
}

// TestStates: each state of the agent that a person has to end has a check of its own, whose
// finding has a way out.
func TestStates(t *testing.T) {
	want := map[string]string{
		hosts.Fenced: "fenced", hosts.Leaving: "leaving", hosts.Outdated: "outdated", hosts.Suspect: "suspect", hosts.Stopped: "agent",
		hosts.Drained: "", hosts.Left: "", hosts.Ready: "", hosts.Starting: "",
	}
	if len(hosts.States()) != len(want) {
		t.Errorf("got states %v, want those of %v", hosts.States(), want)
	}
	for _, state := range hosts.States() {
		h := empty()
		h.Node = &inventory.Node{Running: state != hosts.Stopped && state != hosts.Left}
		h.Node.State, h.Node.Why, h.Node.Store.Connected = state, "as it is", true
		check, known := want[state]
		found := Examine(h)
		if !known || check == "" && len(found) > 0 || check != "" && (len(found) != 1 || found[0].Check != check || found[0].Command == "") {
			t.Errorf("%s: got %+v, want one of %q with a way out, or nothing", state, found, check)
		}
	}
}

// TestVLAN: the host reaches a network in a VLAN by the interface over the bridge that has its
// gateway address, or by the veth pair that the reference plugin makes instead. The route by that
// is the network's own, and its settings count.
func TestVLAN(t *testing.T) {
	subnet := netip.MustParsePrefix("10.7.0.0/24")
	gateway := []netip.Prefix{netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())}
	for name, links := range map[string][]inventory.Link{
		"Trestle's": {{Index: 4, Name: "br0.7", Kind: "vlan", VLAN: 7, Peer: 3, PeerNetNS: -1, MTU: 1500, Addresses: gateway}},
		"the reference's": {
			{Index: 4, Name: "br0.7", Kind: "veth", Peer: 5, PeerNetNS: -1, MTU: 1500, Addresses: gateway},
			{Index: 5, Name: "veth7", Kind: "veth", Peer: 4, PeerNetNS: -1, MTU: 1500, Master: "br0"},
		},
	} {
		h := empty()
		h.Networks = []inventory.Network{{Name: "tagged", Driver: "bridge", Bridge: "br0", Gateway: true, Pools: []inventory.Pool{{Subnet: subnet}}}}
		h.Links = slices.Concat(links, []inventory.Link{{Index: 3, Name: "br0", Kind: "bridge", PeerNetNS: -1, MTU: 1500}})
		h.Routes = []inventory.Route{{To: subnet, Link: "br0.7"}}
		h.Attachments = []inventory.Attachment{{
			Container: "c1", Network: "tagged", State: inventory.Alive, Bridge: "br0", HostLink: "veth1",
			Addresses: []netip.Addr{gateway[0].Addr().Next()}, Evidence: inventory.Evidence{Link: true},
		}}
		if found := overlaps(h); len(found) > 0 {
			t.Errorf("%s: got %+v, want that its own route is none that overlaps", name, found)
		}
		h.sysctl = func(name string) (string, bool) {
			value, ok := map[string]string{"net/ipv4/conf/br0/forwarding": "1", "net/ipv4/conf/br0.7/forwarding": "0"}[name]
			return value, ok
		}
		if found := forwarding(h); len(found) != 1 || !strings.Contains(found[0].Text, "net/ipv4/conf/br0.7/forwarding") {
			t.Errorf("%s: got %+v, want that br0.7 does not forward", name, found)
		}
	}
	// a veth pair between the host and itself that has nothing to do with the bridge, and one to a container
	h := empty()
	h.Links = []inventory.Link{
		{Index: 3, Name: "br0", Kind: "bridge", PeerNetNS: -1},
		{Index: 4, Name: "a", Kind: "veth", Peer: 5, PeerNetNS: -1, Addresses: gateway},
		{Index: 5, Name: "b", Kind: "veth", Peer: 4, PeerNetNS: -1, Master: "br1"},
		{Index: 6, Name: "c", Kind: "veth", Peer: 7, PeerNetNS: 2, Addresses: gateway},
		{Index: 7, Name: "d", Kind: "veth", Peer: 2, PeerNetNS: 3, Master: "br0"},
	}
	if got := h.GatewayLink("br0", func(netip.Prefix) bool { return true }); got != "br0" {
		t.Errorf("got %s, want br0", got)
	}
}

// TestOldPlugins: plugins of another release than the command's are found, whichever is older.
func TestOldPlugins(t *testing.T) {
	list, err := network.ReadFile("../../../conflist/10-trestle.conflist")
	if err != nil {
		t.Fatal(err)
	}
	h := empty()
	h.release = "2.1.0"
	h.files = []listFile{{Path: "10-trestle.conflist", List: &list}}
	plugin := func(name, version string) programs.Program {
		return programs.Program{Name: name, Path: "/opt/cni/bin/" + name, Suite: programs.Trestle, Version: version, Executable: true}
	}
	h.Programs = programs.All{plugin("bridge", "2.1.0"), plugin("portmap", "2.0.0"), plugin("host-local", "2.1.0"), plugin("tuning", "1.0.0")}
	found := Examine(h)
	if len(found) != 1 || found[0].Check != "plugins" || !strings.Contains(found[0].Text, "/opt/cni/bin/portmap is of release 2.0.0, and trestle is of 2.1.0") {
		t.Errorf("got %+v, want that portmap is old, and nothing of tuning, which no list names", found)
	}
}

// TestMissingPlugins: a plugin that a list names twice is missing once, and the plugin that
// delegates to a missing one is not asked about it.
func TestMissingPlugins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "10-n.conflist")
	content := `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge", "ipam": {"type": "dhcp"}}, {"type": "tuning"}, {"type": "tuning"}]}`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	h := empty()
	var err error
	if h.files, err = readLists([]string{filepath.Dir(path)}); err != nil {
		t.Fatal(err)
	}
	h.Programs = programs.All{{Name: "bridge", Path: filepath.Join(t.TempDir(), "bridge"), Suite: programs.Trestle, Executable: true}}
	h.answers = askStatus(t.Context(), h.files, h.Programs, nil)
	var texts []string
	for _, f := range Examine(h) {
		text, _, _ := strings.Cut(f.Text, " is not in ")
		texts = append(texts, f.Check+": "+text)
	}
	if got, want := strings.Join(texts, ", "), `network-list: plugin "tuning", network-list: plugin "dhcp"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestFix: GC and restore run once, however many findings need them, and a failure does not
// keep the others from being fixed.
func TestFix(t *testing.T) {
	collected, restored := 0, 0
	tools := Tools{GC: func() error { collected++; return errors.ErrUnsupported }, Restore: func() error { restored++; return nil }}
	found := []Finding{
		{Check: "a", Fixable: true, fix: gcFix},
		{Check: "b"},
		{Check: "c", Fixable: true, fix: restoreFix},
		{Check: "d", Fixable: true, fix: gcFix},
		{Check: "e", Fixable: true, fix: restoreFix},
	}
	err := Fix(t.Context(), found, tools)
	if collected != 1 || restored != 1 || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got GC %d times, restore %d times and %v, want each once and the error of GC", collected, restored, err)
	}
}

// TestStatusCommand: a list is to be looked at only if it may have a mistake, rather than the host.
func TestStatusCommand(t *testing.T) {
	for want, err := range map[string]error{
		"":                            &types.Error{Code: uint(cni.CodeUnavailable), Msg: "the file system is full"},
		"trestle validate a.conflist": &types.Error{Code: uint(cni.CodeConfig), Msg: "bridge: missing"},
		"trestle validate b.conflist": errors.ErrUnsupported,
	} {
		h := empty()
		h.answers = []statusAnswer{{File: strings.TrimPrefix(want, "trestle validate "), Network: "n", Plugin: "bridge", Err: err}}
		if found := statuses(h); len(found) != 1 || found[0].Command != want || !strings.Contains(found[0].Text, err.Error()) {
			t.Errorf("%v: got %+v, want the command %q", err, found, want)
		}
	}
}

// TestWithoutWhenFull: STATUS is asked again without the key that makes a full pool its error, in
// any case of letters, and only then.
func TestWithoutWhenFull(t *testing.T) {
	for _, test := range []struct {
		config, want string
		asked        bool
	}{
		{`{"type":"bridge","ipam":{"type":"host-local","statusWhenFull":"unavailable"}}`, `{"ipam":{"type":"host-local"},"type":"bridge"}`, true},
		{`{"type":"bridge","IPAM":{"StatusWhenFull":"unavailable"}}`, `{"IPAM":{},"type":"bridge"}`, true},
		{`{"type":"bridge","ipam":{"type":"host-local"}}`, "", false},
		{`{"type":"portmap","statusWhenFull":"unavailable"}`, "", false},
		{`{"type":"bridge","ipam":"none"}`, "", false},
		{`[]`, "", false},
	} {
		got, asked := withoutWhenFull([]byte(test.config))
		if asked != test.asked || asked && string(got) != test.want {
			t.Errorf("%s: got %s, %v, want %s, %v", test.config, got, asked, test.want, test.asked)
		}
	}
}

// TestSetLinkSysctl: a link that is gone when its fix runs needs none.
func TestSetLinkSysctl(t *testing.T) {
	const setting = "net/ipv6/conf/gone0/accept_ra"
	if err := setLinkSysctl(setting, "2")(t.Context(), Tools{}); err != nil {
		t.Errorf("got %v, want success", err)
	}
	if err := setSysctl(setting, "2")(t.Context(), Tools{}); err == nil {
		t.Error("got success, want an error of a setting that must be there")
	}
}

// TestPools: a range set is judged as a whole, and each set of a network for itself. A dead
// container's address counts as free.
func TestPools(t *testing.T) {
	subnets := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/25"), netip.MustParsePrefix("10.2.0.0/25"), netip.MustParsePrefix("fd00::/64")}
	of := func(set int, subnet int, size, used, dead uint64) inventory.Pool {
		return inventory.Pool{Set: set, Subnet: subnets[subnet], Size: size, Used: used, Dead: dead}
	}
	const none, all = "", "no container can be attached"
	for name, test := range map[string]struct {
		pools []inventory.Pool
		want  Severity
		text  string
	}{
		"few are leased":                 {[]inventory.Pool{of(0, 0, 100, 89, 0)}, "", none},
		"few are free":                   {[]inventory.Pool{of(0, 0, 100, 90, 0)}, Warning, "90 of the 100 addresses of 10.1.0.0/25 are leased"},
		"all are leased":                 {[]inventory.Pool{of(0, 0, 100, 100, 0)}, Fault, "all 100 addresses of 10.1.0.0/25 are leased: " + all},
		"one of a dead container":        {[]inventory.Pool{of(0, 0, 100, 100, 1)}, Warning, "99 of the 100 addresses of 10.1.0.0/25 are leased"},
		"many of dead containers":        {[]inventory.Pool{of(0, 0, 100, 100, 20)}, "", none},
		"a full range and a free one":    {[]inventory.Pool{of(0, 0, 100, 100, 0), of(0, 1, 100, 0, 0)}, "", none},
		"a full range and few free":      {[]inventory.Pool{of(0, 0, 100, 100, 0), of(0, 1, 100, 85, 0)}, Warning, "185 of the 200 addresses of 10.1.0.0/25 and 10.2.0.0/25 together are leased"},
		"two full ranges":                {[]inventory.Pool{of(0, 0, 100, 100, 0), of(0, 1, 50, 50, 0)}, Fault, "all 150 addresses of 10.1.0.0/25 and 10.2.0.0/25 together are leased: " + all},
		"two full ranges of one subnet":  {[]inventory.Pool{of(0, 0, 10, 10, 0), of(0, 0, 5, 5, 0)}, Fault, "all 15 addresses of 10.1.0.0/25 are leased: " + all},
		"a full set beside a free one":   {[]inventory.Pool{of(0, 0, 100, 100, 0), of(1, 2, 1<<63, 100, 0)}, Fault, "all 100 addresses of 10.1.0.0/25 are leased: " + all},
		"a full set after a free one":    {[]inventory.Pool{of(0, 2, math.MaxUint64, 100, 0), of(1, 0, 100, 100, 0)}, Fault, "all 100 addresses of 10.1.0.0/25 are leased: " + all},
		"huge ranges of one set":         {[]inventory.Pool{of(0, 2, math.MaxUint64, 100, 0), of(0, 2, 1<<63, 100, 0)}, "", none},
		"the only address":               {[]inventory.Pool{of(0, 0, 1, 1, 0)}, Fault, "the only address of 10.1.0.0/25 is leased: " + all},
		"a range without any to lease":   {[]inventory.Pool{of(0, 0, 0, 0, 0)}, "", none},
		"a full range, and an empty one": {[]inventory.Pool{of(0, 0, 100, 100, 0), of(0, 1, 0, 0, 0)}, Fault, "all 100 addresses of 10.1.0.0/25 and 10.2.0.0/25 together are leased: " + all},
	} {
		h := empty()
		h.Networks = []inventory.Network{{Name: "n", Pools: test.pools}}
		var got Finding
		for _, f := range pools(h) {
			got = f
		}
		if got.Severity != test.want || got.Text != test.text {
			t.Errorf("%s: got %q: %q, want %q: %q", name, got.Severity, got.Text, test.want, test.text)
		}
		if full := h.hasFullPool("n"); full != (test.want == Fault) {
			t.Errorf("%s: got full %t, want what pools says", name, full)
		}
	}
}

// TestDeadTexts: who is gone, and what they have left, in words that count only what there is.
func TestDeadTexts(t *testing.T) {
	gone := func(container string, addresses, ports int) inventory.Attachment {
		return inventory.Attachment{
			Network: "n", Container: container, State: inventory.Dead, Evidence: inventory.Evidence{Record: true},
			Addresses: make([]netip.Addr, addresses), Ports: make([]inventory.Port, ports),
		}
	}
	left := gone("app", 1, 1)
	left.State, left.NetNS = inventory.Alive, "/run/netns/app"
	for want, test := range map[string]struct {
		attachments []inventory.Attachment
		killed      map[string]string
	}{
		"network n: container web is gone and still has 1 address: the runtime has not called DEL": {[]inventory.Attachment{gone("web", 1, 0)}, nil},
		"network n: 2 containers are gone, web for one, and still have 2 addresses and 3 ports: the runtime has not called DEL": {
			[]inventory.Attachment{gone("web", 2, 3), gone("app", 0, 0)}, nil,
		},
		"network n: container web is gone and still has 1 port: the runtime has not called DEL":                   {[]inventory.Attachment{gone("web", 0, 1)}, nil},
		"network n: container web is gone and still has its interface or records: the runtime has not called DEL": {[]inventory.Attachment{gone("web", 0, 0)}, nil},
		"container app: its trestle run was killed, and has left its network namespace, /run/netns/app, with 1 address and 1 port": {
			[]inventory.Attachment{left}, map[string]string{"app": "/run/netns/app"},
		},
		"container app: its trestle run was killed, and has left its network namespace, /run/netns/app": {nil, map[string]string{"app": "/run/netns/app"}},
	} {
		h := empty()
		h.Networks, h.Attachments, h.Killed = []inventory.Network{{Name: "n"}}, test.attachments, test.killed
		found := dead(h)
		if len(found) != 1 || found[0].Subject+": "+found[0].Text != want || found[0].Command != "trestle gc" || found[0].fix == nil {
			t.Errorf("got %+v, want %q, which trestle gc fixes", found, want)
		}
	}
}

// TestLetThrough: the command is for the program that made the chain.
func TestLetThrough(t *testing.T) {
	for _, test := range []struct{ program, table, want string }{
		{"nft", "inet firewalld", "firewall-cmd"}, {"nft", "inet filter", "nft insert rule inet filter forward"}, {"ip6tables-legacy", "ip6 filter", "ip6tables-legacy -I FORWARD"},
	} {
		base := rules.Base{Table: test.table, Program: test.program, Chain: "forward"}
		if got := letThrough(base, "br0"); !strings.HasPrefix(got, test.want) || !strings.Contains(got, "br0") {
			t.Errorf("got %q, want it to begin with %q", got, test.want)
		}
	}
}
