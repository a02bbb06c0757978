package trestle

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/test/host"
)

// TestNetworkRm: a network goes with all that it has made; in use it stays, unless it is
// forced.
func TestNetworkRm(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "network", "create", "db", "--ingress", "open")
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	before := h.Dump()
	output := run(t, h, "network", "rm", "db", "lab")
	if want := "trestle: network lab: web is attached; detach it first, or use --force\n"; output.Code != 1 || output.Stderr != want {
		t.Errorf("got exit status %d: %q, want 1: %q", output.Code, output.Stderr, want)
	}
	h.AssertUnchanged(before) // db neither
	refused(t, h, []string{"nowhere", "db", "lab"}, "network", "rm", "nowhere")

	h.Container("two")
	must(t, h, "attach", "two", "lab")
	if output, want := run(t, h, "network", "rm", "lab"), "two, web are attached; detach them first"; output.Code != 1 || !strings.Contains(output.Stderr, want) {
		t.Errorf("got exit status %d: %q, want 1: %q", output.Code, output.Stderr, want)
	}
	if got := must(t, h, "network", "rm", "--force", "lab", "db"); got != "lab\ndb\n" {
		t.Errorf("got %q", got)
	}
	left := h.MustRun("sh", "-c", "ls -A /sys/class/net /etc/cni/net.d /var/lib/cni/networks /var/lib/cni/results /run/trestle/hostports; ls -AR /run/trestle/translations")
	for _, word := range []string{"veth", "br-lab", "lab", "8080", "conflist"} {
		if strings.Contains(left, word) {
			t.Errorf("got %s, want nothing of %q", left, word)
		}
	}
	if rules := h.MustRun("sh", "-c", host.ListRuleset); strings.Contains(rules, "lab") {
		t.Errorf("got %s, want nothing of lab", rules)
	}
}

// TestNetworkRmOfTheDead: a container that is proved dead keeps no network, and one whose
// list is gone can be removed by its name.
func TestNetworkRmOfTheDead(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	web.Remove()
	h.MustRun("rm", "/etc/cni/net.d/90-lab.conflist")
	host.NeedProofOfDeath(t)
	await(t, "web is dead", func() bool {
		all := answer[[]inventory.Attachment](t, h, "ls")
		return len(all) == 1 && all[0].State == inventory.Dead
	})
	must(t, h, "network", "rm", "lab")
	if got := must(t, h, "network", "ls", "--json") + must(t, h, "ls", "--json"); got != "[]\n[]\n" {
		t.Errorf("got %s, want nothing", got)
	}
}

// TestNetworkRmLeavesOthers: a bridge that somebody else made stays, and so does a list
// whose name is a path.
func TestNetworkRmLeavesOthers(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	h.MustRun("ip", "link", "add", "br-mine", "type", "bridge")
	h.InstallNetwork("10-mine.conflist", `{"cniVersion": "1.0.0", "name": "mine", "plugins": [{"type": "bridge", "bridge": "br-mine"}]}`)
	output := run(t, h, "network", "rm", "mine")
	if output.Code != 0 || !strings.Contains(output.Stderr, "br-mine stays") {
		t.Errorf("got exit status %d: %s", output.Code, output.Stderr)
	}
	h.MustRun("ip", "link", "show", "br-mine")

	h.MustRun("mkdir", "-p", "/var/lib/cni/precious")
	h.InstallNetwork("10-path.conflist", `{"cniVersion": "1.0.0", "name": "../precious", "plugins": [{"type": "bridge", "bridge": "br-path"}]}`)
	if output := run(t, h, "network", "rm", "../precious"); output.Code == 0 {
		t.Errorf("a network with the name of a path was removed: %s", output.Stdout)
	}
	h.MustRun("ls", "/var/lib/cni/precious", "/etc/cni/net.d/10-path.conflist")
}

// TestNetworkPrune: what network create made and nobody is on goes; others' lists stay.
func TestNetworkPrune(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "network", "create", "idle", "--ingress", "open")
	h.InstallNetwork("10-k8s.conflist", `{"cniVersion": "1.0.0", "name": "k8s", "plugins": [{"type": "bridge", "bridge": "cni0"}]}`)
	must(t, h, "attach", "web", "lab")
	refused(t, h, []string{"--force", "--dry-run"}, "network", "prune")
	before := h.Dump()
	if got := must(t, h, "network", "prune", "--dry-run"); got != "idle\n" {
		t.Errorf("got %q, want idle", got)
	}
	h.AssertUnchanged(before)
	if got := answer[[]string](t, h, "network", "prune", "--force"); len(got) != 1 || got[0] != "idle" {
		t.Errorf("got %q, want idle", got)
	}
	if files := h.MustRun("ls", "/etc/cni/net.d"); files != "10-k8s.conflist\n90-lab.conflist\n" {
		t.Errorf("got %q", files)
	}
}

// TestGC: what is dead goes, whatever list it was on, ports included, and is named; what
// lives stays. --dry-run says the same and changes nothing.
func TestGC(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	h.Container("alive")
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	must(t, h, "attach", "alive", "lab", "-p", "8081:80")
	web.Remove()
	awaitVeths(t, h, 1)
	awaitDead(t, h)
	before := h.Dump()
	if got, want := must(t, h, "gc", "--dry-run"), "  would free lab/web/eth0: 10.40.0.2, 8080->80/tcp\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	h.AssertUnchanged(before)
	refused(t, h, []string{"nowhere", "lab"}, "gc", "nowhere")
	want := "lab (/etc/cni/net.d/90-lab.conflist): bridge, portmap\n  freed lab/web/eth0: 10.40.0.2, 8080->80/tcp\n"
	if got := must(t, h, "gc", "lab"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	all := answer[[]inventory.Attachment](t, h, "ls")
	if len(all) != 1 || all[0].Container != "alive" || len(all[0].Ports) == 0 {
		t.Errorf("got %+v, want alive, with its port", all)
	}
	if got := must(t, h, "gc", "--json"); got != "[]\n" {
		t.Errorf("got %s, want nothing", got)
	}
}

// TestNetworkRmUnderRun: a container of trestle run is to be stopped, rather than detached from under its
// command.
func TestNetworkRmUnderRun(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "run", "-d", "--name", "app", "--net", "lab", "--", "sleep", "1000")
	if output, want := run(t, h, "network", "rm", "lab"), "trestle: network lab: app is attached; stop it first, or use --force\n"; output.Code != 1 || output.Stderr != want {
		t.Errorf("got exit status %d: %q, want 1: %q", output.Code, output.Stderr, want)
	}
	must(t, h, "attach", "web", "lab")
	if output, want := run(t, h, "network", "rm", "lab"), "app, web are attached; detach web and stop app first"; output.Code != 1 || !strings.Contains(output.Stderr, want) {
		t.Errorf("got exit status %d: %q, want 1: %q", output.Code, output.Stderr, want)
	}
	must(t, h, "detach", "web")
	must(t, h, "stop", "app")
	must(t, h, "network", "rm", "lab")
}
