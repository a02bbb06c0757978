package portmap

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/translator"
	"github.com/trestle-cni/trestle/test/host"
)

// TestPortmapAfterTheReference: a container that the reference plugin mapped
// ports for is deleted by ours, and nothing of that container on that network
// is left; what others have stays.
func TestPortmapAfterTheReference(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, backend, iptables string
		prevResult              bool // whether the runtime still has one at DEL
		gone                    bool
	}{
		{"iptables", "iptables", "iptables-nft", false, true},
		{"iptables-legacy", "iptables", "iptables-legacy", false, true},
		{"nftables", "nftables", "iptables-nft", true, true},
		{"nftables, without the addresses", "nftables", "iptables-nft", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			path := "PATH=" + alternativeIPTables(t, n, tt.iptables)
			keys := fmt.Sprintf(`"backend": %q`, tt.backend)
			mappings := natMapping("tcp", "", 8080, 80) + "," + natMapping("udp", "192.0.2.2", 8081, 80)
			result := natResult(n.c1, natC1v4, natC1v6)
			reference := n.c1.Call("ADD", filepath.Join(n.Dirs().Reference, "portmap"), natConfig("blue", keys, result, mappings))
			reference.Env = []string{path}
			if err := n.Exec(reference).Err(); err != nil {
				t.Fatal(err)
			}
			others := reference
			others.ContainerID, others.Config = "other", natConfig("blue", keys, natResult(n.neighbour, "10.1.0.6/24"), natMapping("tcp", "", 9090, 80))
			if err := n.Exec(others).Err(); err != nil {
				t.Fatal(err)
			}
			mapped := func(container string) bool {
				return strings.Contains(n.MustRun("sh", "-c", "nft list ruleset; iptables-legacy-save -t nat; ip6tables-legacy-save -t nat"), container)
			}
			if !mapped("10.1.0.5") || !mapped("10.1.0.6") {
				t.Fatal("the reference plugin left no rule to look for")
			}
			if !tt.prevResult {
				result = ""
			}
			del := n.c1.Call("DEL", "portmap", natConfig("blue", "", result, ""))
			del.Env = []string{path}
			if err := n.Exec(del).Err(); err != nil {
				t.Fatal(err)
			}
			if tt.gone == mapped("10.1.0.5") || !mapped("10.1.0.6") {
				t.Errorf("got\n%s\nwant the rules of 10.1.0.5 gone: %v, and those of 10.1.0.6 still", n.MustRun("sh", "-c", "nft list ruleset; iptables-legacy-save -t nat"), tt.gone)
			}
			if tt.gone {
				if out := n.MustRun("sh", "-c", "nft list ruleset; iptables-legacy-save -t nat; ip6tables-legacy-save -t nat"); strings.Contains(out, "fd00:1::5") {
					t.Errorf("got\n%s\nwant no rule of fd00:1::5", out)
				}
			}
		})
	}
}

// TestMasqueradeAfterTheReference is the same for the masquerade of the
// reference's bridge plugin.
func TestMasqueradeAfterTheReference(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			h := host.New(t)
			network := h.Network(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "blue", "plugins": [
				{"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "ipMasqBackend": %q,
				 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}}]}`, backend))
			network.Path = []string{h.Dirs().Reference}
			for _, id := range []string{"c1", "c2"} {
				if _, err := network.Add(h.Container(id).Attachment()); err != nil {
					t.Fatal(err)
				}
			}
			err := h.Do(func() error {
				conn, n := translator.Open()
				defer conn.Close()
				return n.ReleaseReference(cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"}, nil)
			})
			if err != nil {
				t.Fatal(err)
			}
			ruleset := h.MustRun("nft", "list", "ruleset")
			for address, want := range map[string]bool{"10.9.0.2 ": false, "fd09::2 ": false, "10.9.0.3 ": true, "fd09::3 ": true} {
				if got := strings.Contains(ruleset, "saddr "+address); got != want {
					t.Errorf("rule of %s: got %v, want %v in\n%s", address, got, want, ruleset)
				}
			}
		})
	}
}

// alternativeIPTables makes a directory in which iptables is that variant, and
// returns a PATH that begins with it.
func alternativeIPTables(t *testing.T, n natNet, variant string) string {
	t.Helper()
	dir := t.TempDir()
	for _, suffix := range []string{"", "-save", "-restore"} {
		n.MustRun("ln", "-s", "/usr/sbin/"+variant+suffix, filepath.Join(dir, "iptables"+suffix))
		n.MustRun("ln", "-s", "/usr/sbin/"+strings.Replace(variant, "ip", "ip6", 1)+suffix, filepath.Join(dir, "ip6tables"+suffix))
	}
	return dir + ":/usr/sbin:/usr/bin:/sbin:/bin"
}
