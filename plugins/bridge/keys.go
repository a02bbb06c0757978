package bridge

import (
	"slices"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
)

// keys are the keys for links and addresses, masquerade, and port mappings.
func keys() []cni.Key {
	masquerade := cni.KeysOf(natWire{}, []cni.Key{
		{Path: "ipMasq", Default: "`false`", Doc: "packets that leave the network get the host's address; one rule for the network"},
		{Path: "ipMasqBackend", Default: "nftables, or iptables if the kernel has no nf_tables", Doc: "`nftables` or `iptables`"},
		{Path: "masquerade", Ours: true, Doc: "how packets are masqueraded, by the next four keys"},
		{Path: "masquerade.exclude", Default: "none", Ours: true, Doc: "destinations that see the containers' own addresses"},
		{Path: "masquerade.snatIP4", Default: "the address of the interface by which the packet leaves", Ours: true, Doc: "a fixed source address; it should be one of the host's"},
		{Path: "masquerade.snatIP6", Default: "the same", Ours: true, Doc: "likewise for IPv6"},
		{Path: "masquerade.randomFully", Default: "`false`", Ours: true, Doc: "source ports are chosen at random"},
	})
	return slices.Concat(bridge.Keys(), masquerade, nat.PortKeys())
}
