package firewall

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "ingressPolicy", Default: "`open`", Doc: "who reaches the container: `open` everybody; `same-bridge` nobody from another bridge that has a policy; `isolated` no container at all; `published`, which is ours, from outside of the bridge nobody, but by [published ports](meta-plugins.md#published-ports-only)"},
		{Path: "internal", Default: "`false`", Ours: true, Doc: "`true`: nothing is forwarded to the network, nor from it; see [below](meta-plugins.md#an-internal-network)"},
		{Path: "backend", Doc: "who is asked to let packets through: `firewalld`, `iptables`, or, which is ours, `nftables` for nobody. Without it: firewalld where it runs, and every table `filter` of iptables; where nobody has made one yet, it is made"},
		{Path: "iptablesAdminChainName", Default: "`" + defaultAdminChain + "`", Doc: "a chain that is asked before our rules, and stays when it is empty. Where the key is given, an ADD fails if there is no such table, and none can be made"},
		{Path: "firewalldZone", Default: "`" + defaultZone + "`", Doc: "the zone that the container's addresses are bound to; the bus is at `/run/dbus/system_bus_socket`, or where `DBUS_SYSTEM_BUS_ADDRESS` says"},
	})
}
