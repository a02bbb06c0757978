package portmap

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/test/host"
)

// TestManySubnets: a pool of small subnets, one for each container. The build before made
// the rules of the first of them.
func TestManySubnets(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			manySubnets(t, backend)
		})
	}
}

func manySubnets(t *testing.T, backend string) {
	h := host.NewRouting(t)
	if h.Dirs().Previous == "" {
		t.Skip("no earlier build: make previous")
	}
	var ranges []string
	for i := range 60 {
		ranges = append(ranges, fmt.Sprintf(`{"subnet": "10.60.%d.0/30"}`, i))
	}
	network := h.Network(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0", "isDefaultGateway": true,
		"ipMasq": true, "ipMasqBackend": %q, "ipam": {"type": "host-local", "ranges": [[%s]]}}]}`, backend, strings.Join(ranges, ",")))
	var containers []*host.Container
	var addresses []netip.Addr
	add := func(many int, plugins string) {
		t.Helper()
		network.Path = []string{plugins}
		for range many {
			c := h.Container(fmt.Sprintf("c%d", len(containers)))
			result, err := network.Add(c.Attachment())
			if err != nil {
				t.Fatalf("ADD of %s: %v", c.ID, err)
			}
			address, _ := netip.AddrFromSlice(result.IPs[0].Address.IP)
			containers, addresses = append(containers, c), append(addresses, address.Unmap())
		}
	}
	h.Outside.Serve("tcp", ":80")
	seen := func(when string) {
		t.Helper()
		first, last := 0, len(containers)-1
		for _, i := range []int{first, last} {
			reply, err := containers[i].Request("tcp", host.OutsideIPv4.Addr().String()+":80")
			if err != nil || reply.Seen.Addr() != host.HostIPv4.Addr() {
				t.Errorf("%s: outside: %s is seen as %v, %v, want as the host", when, containers[i].ID, reply, err)
			}
			if err := network.Check(containers[i].Attachment()); err != nil {
				t.Errorf("%s: CHECK of %s: %v", when, containers[i].ID, err)
			}
		}
		reply, err := containers[first].Request("tcp", addresses[last].String()+":80")
		if err != nil || reply.Seen.Addr() != addresses[first] {
			t.Errorf("%s: another subnet of the network: seen as %v, %v, want as itself", when, reply, err)
		}
	}
	add(20, h.Dirs().Previous)
	add(25, h.Dirs().Trestle)
	containers[len(containers)-1].Serve("tcp", ":80")
	seen("after ADD")
	h.MustRun("nft", "flush", "ruleset")
	h.Restore()
	seen("after a flush and restore")
	for _, c := range containers {
		if err := network.Del(c.Attachment()); err != nil {
			t.Errorf("DEL of %s: %v", c.ID, err)
		}
	}
	if err := network.GC(&libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
		t.Errorf("GC of nobody: %v", err)
	}
	if got := h.MustRun("sh", "-c", "nft list ruleset; iptables-save; find /run/trestle -type f -o -type l"); strings.Contains(got, `"n/`) || strings.Contains(got, "table inet trestle") {
		t.Errorf("got\n%s\nwant nothing left", got)
	}
}
