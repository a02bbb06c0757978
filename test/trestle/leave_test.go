package trestle

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestLeave: when the node has gone back to the reference plugins and Trestle's last
// container is gone, nothing of Trestle's is left, and a container of the others' keeps
// all it has.
func TestLeave(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	h.InstallNetwork("90-lab.conflist", `{"cniVersion": "1.0.0", "name": "lab", "plugins": [
		{"type": "bridge", "bridge": "br-lab", "isDefaultGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.40.0.0/24"}]]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "firewall", "ingressPolicy": "same-bridge"}]}`)
	must(t, h, "network", "create", "idle", "--ingress", "open")
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	reference := "--plugins=" + h.Dirs().Reference
	for _, test := range []struct{ args, want string }{
		{"leave", "is Trestle's"},
		{"leave " + reference, "lab/web: attached by Trestle, and alive"},
		{"leave --dry-run " + reference, "lab/web"},
	} {
		before := h.Dump()
		if output := run(t, h, strings.Fields(test.args)...); output.Code != 1 || !strings.Contains(output.Stderr, test.want) {
			t.Errorf("%s: got exit status %d: %q, want 1: %q", test.args, output.Code, output.Stderr, test.want)
		}
		h.AssertUnchanged(before)
	}
	other := h.Container("other")
	must(t, h, "attach", "other", "lab", "-p", "9090:90", reference)
	must(t, h, "detach", "web", reference) // leaves what the reference knows nothing of
	if left := h.MustRun("nft", "list", "ruleset"); !strings.Contains(left, "lab/web/eth0") {
		t.Fatalf("got %s, want something of web that is left", left)
	}
	awaitVeths(t, h, 1)
	if output := run(t, h, "leave", reference); output.Code != 1 || !strings.Contains(output.Stderr, "not proved dead") {
		t.Errorf("got exit status %d: %q; web's namespace is still there", output.Code, output.Stderr)
	}
	web.Remove()
	awaitDead(t, h)
	got := must(t, h, "leave", reference)
	for _, want := range []string{"removed nftables table inet trestle\n", "removed /run/trestle\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	left := h.MustRun("sh", "-c", "nft list ruleset; ls -AR /run /var/lib/cni/networks")
	if strings.Contains(left, "trestle") || strings.Contains(left, "web") {
		t.Errorf("got %s, want nothing of Trestle's", left)
	}
	if leases := h.MustRun("ls", "/var/lib/cni/networks/lab"); !strings.Contains(leases, "10.40.0.3") || strings.Contains(leases, "10.40.0.2\n") {
		t.Errorf("got leases %q, want the other's alone", leases)
	}
	other.Serve("tcp", ":90")
	serves(t, h.Outside, "tcp", host.HostIPv4.Addr().String()+":9090", "other")
}
