package firewall

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "ingressPolicy", Default: "`open`", Doc: "who reaches the container. `open`: everybody; `same-bridge`: not containers on another bridge with a policy; `isolated`: no container; `published` (ours): from outside the bridge nobody, except by [published ports](meta-plugins.md#published-ports-only)"},
		{Path: "internal", Default: "`false`", Ours: true, Doc: "`true`: nothing is forwarded to the network or from it; see [below](meta-plugins.md#an-internal-network)"},
		{Path: "backend", Doc: "the firewall that is told to let packets through: `firewalld`, `iptables`, or `nftables` (ours) for none. Without it: firewalld if it runs, and every table `filter` of iptables, which is created if it does not exist"},
		{Path: "iptablesAdminChainName", Default: "`" + defaultAdminChain + "`", Doc: "a chain that is run before our rules, and stays if it is empty. If the key is given, an ADD fails if there is no table `filter` and none can be created"},
		{Path: "firewalldZone", Default: "`" + defaultZone + "`", Doc: "the zone whose sources the container's addresses become; the bus is at `/run/dbus/system_bus_socket`, or as `DBUS_SYSTEM_BUS_ADDRESS` says"},
	})
}
