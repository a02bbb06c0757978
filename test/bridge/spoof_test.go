package bridge

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// spoofElements is what the kernel has for the MAC check.
func spoofElements(h *host.Host) string {
	awaitExpiry(h)
	output, err := h.Run(host.Command{Args: []string{"sh", "-c", "for s in ports allowed; do nft list set bridge trestle $s 2>/dev/null; done | grep comment"}})
	if err != nil {
		return err.Error()
	}
	return output.Stdout
}

// awaitExpiry waits for the elements that a DEL has deleted: the kernel lists them until
// their timeout, a tick or two later, is over.
func awaitExpiry(h *host.Host) {
	h.MustRun("timeout", "30", "sh", "-c", "while nft list table bridge trestle 2>/dev/null | grep -q expires; do sleep .01; done")
}

// An ADD with another MAC over a namespace that was lost leaves the old MAC nowhere.
func TestBridgeMACSpoofCheckAddAgain(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"true", "rm -r /run/trestle"} {
		h := host.NewRouting(t)
		c, next := h.Container("c1"), h.Container("next")
		mac := func(mac string) string {
			return host.BridgeConfig(object{
				"macspoofchk": true, "runtimeConfig": object{"mac": mac}, "capabilities": object{"mac": true},
				"ipam": object{"type": "static", "addresses": []any{object{"address": "10.9.0.7/24"}}},
			})
		}
		const old, now = "02:00:00:00:00:01", "02:00:00:00:00:02"
		c.MustAdd(mac(old))
		c.MustRun("ip", "link", "delete", "eth0") // as the end of a namespace does
		h.MustRun("sh", "-c", lost)
		again := c.Call("ADD", "bridge", mac(now))
		again.NetNS = next.NetNS
		if err := h.Exec(again).Err(); err != nil {
			t.Fatal(err)
		}
		if got := spoofElements(h); strings.Contains(got, old) || strings.Count(got, "n/c1/eth0") != 2 {
			t.Errorf("%s: got %s, want the new MAC alone", lost, got)
		}
		c.MustDel(mac(now))
		if got := spoofElements(h); got != "" {
			t.Errorf("%s: got %s left", lost, got)
		}
	}
}

// Without its records, DEL and GC go by what the kernel says; restore makes what a
// flush took.
func TestBridgeMACSpoofCheckLost(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"macspoofchk": true})
	a, b, c := h.Container("a"), h.Container("b"), h.Container("c")
	for _, x := range []*host.Container{a, b, c} {
		x.MustAdd(config)
	}
	h.MustRun("rm", "-r", "/run/trestle/macspoofchk")
	a.MustDel(config)
	gc := host.Call{Plugin: "bridge", Command: "GC", Config: strings.TrimSuffix(config, "}") + `,"cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]}`}
	if got := spoofElements(h); strings.Contains(got, "n/a/") || !strings.Contains(got, "n/c/") {
		t.Errorf("got %s, want a's gone", got)
	}
	if err := h.Exec(gc).Err(); err != nil {
		t.Fatal(err)
	}
	if got := spoofElements(h); strings.Count(got, "n/b/") != 2 || strings.Contains(got, "n/c/") {
		t.Errorf("got %s, want b's alone", got)
	}
	b.MustDel(config)
	b.MustAdd(config)
	awaitExpiry(h)
	whole := h.MustRun("nft", "list", "table", "bridge", "trestle")
	h.MustRun("nft", "flush", "ruleset")
	h.Restore()
	if got := h.MustRun("nft", "list", "table", "bridge", "trestle"); got != whole {
		t.Errorf("restored: got\n%s\nwant\n%s", got, whole)
	}
	b.MustRun("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
	if err := b.Briefly().Ping(netip.MustParseAddr("10.9.0.1")); err == nil {
		t.Error("a forged MAC gets through after restore")
	}
	// saved and loaded again it is the same; a set as earlier releases made it is replaced
	h.MustRun("sh", "-ec", "nft list ruleset >/run/saved; sed -i 's/flags timeout//' /run/saved; nft flush ruleset; nft -f /run/saved; rm /run/saved")
	c.MustAdd(config)
	if sets := h.MustRun("nft", "list", "sets", "bridge"); strings.Count(sets, "flags timeout") != 2 {
		t.Errorf("got %s, want both sets replaced", sets)
	}
	if got := spoofElements(h); strings.Count(got, "n/b/") != 2 || strings.Count(got, "n/c/") != 2 {
		t.Errorf("got %s, want both containers'", got)
	}
}
