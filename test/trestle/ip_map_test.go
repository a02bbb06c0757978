package trestle

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/picture"
	"github.com/trestle-cni/trestle/test/host"
)

// TestIPMap: who has an address, living or dead, and what nobody gets, in cells.
func TestIPMap(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	h.MustRun("sh", "-c", "printf 'kept by hand' >/var/lib/cni/networks/trestle/10.22.1.0")
	host.NeedProofOfDeath(t)
	await(t, "the lost container is dead", func() bool {
		all := answer[[]inventory.Attachment](t, h, "ls")
		return len(all) == 2 && all[0].State == inventory.Dead
	})
	before := h.Dump()
	maps := answer[[]picture.PoolMap](t, h, "ip", "map", "trestle")
	if len(maps) != 2 || len(maps[0].Cells) != 1024 || maps[0].CellBits != 26 || maps[1].Drawn.String() != "fd6c:4ae9:71d3:22::/120" {
		t.Fatalf("got %+v", maps)
	}
	// the network's own address and the gateway are reserved
	if got := maps[0].Cells[0]; got.Leased != 1 || got.Dead != 1 || got.Reserved != 2 || got.Free != 60 {
		t.Errorf("got %+v", got)
	}
	if got := maps[0].Cells[4]; got.Reserved != 1 || got.Free != 63 {
		t.Errorf("got %+v of 10.22.1.0/26, want one reserved", got)
	}
	text := must(t, h, "ip", "map")
	for _, want := range []string{"trestle  10.22.0.0/16  ", "10.22.0.0   ×··", "a cell is 64 addresses", "fd6c:4ae9:71d3:22::", "× dead"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%swant %q in it", text, want)
		}
	}
	assertXML(t, must(t, h, "ip", "map", "--svg", "-"))
	h.AssertUnchanged(before)
	refused(t, h, []string{"nowhere", "trestle"}, "ip", "map", "nowhere")
	refused(t, h, []string{"--svg", "/none"}, "ip", "map", "--svg", "/none/x.svg")
	h.InstallNetwork("30-fixed.conflist", `{"cniVersion": "1.0.0", "name": "fixed", "plugins": [{"type": "bridge", "ipam": {"type": "static"}}]}`)
	refused(t, h, []string{"fixed", "no pool"}, "ip", "map", "fixed")
}
