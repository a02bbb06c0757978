package bridge

import (
	"slices"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
)

// keys are those of links and addresses, of the masquerade, and of mapped ports.
func keys() []cni.Key {
	masquerade := cni.KeysOf(natWire{}, []cni.Key{
		{Path: "ipMasq", Default: "`false`", Doc: "what leaves the network gets an address of the host as source (masquerade): one rule for each subnet of the network"},
		{Path: "ipMasqBackend", Default: "nftables, or iptables where the kernel has no nf_tables", Doc: "`nftables` or `iptables`"},
		{Path: "masquerade", Ours: true, Doc: "how to masquerade; the next four keys"},
		{Path: "masquerade.exclude", Default: "none", Ours: true, Doc: "prefixes of destinations that see the containers' own addresses"},
		{Path: "masquerade.snatIP4", Default: "the address of the interface by which the packet leaves", Ours: true, Doc: "a fixed source address; it should be one of the host's"},
		{Path: "masquerade.snatIP6", Default: "likewise", Ours: true, Doc: "the same for IPv6"},
		{Path: "masquerade.randomFully", Default: "`false`", Ours: true, Doc: "source ports are chosen at random (`fully-random` of nft(8))"},
	})
	return slices.Concat(bridge.Keys(), masquerade, nat.PortKeys())
}
