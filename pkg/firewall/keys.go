package firewall

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are those of ParseConfig.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "ingressPolicy", Default: "`open`", Doc: "who reaches the container. `open`: everybody. `same-bridge`: nobody from another bridge that has a policy. `isolated`: nobody from its own bridge, or from another one that has a policy. `published` **+**: from outside the bridge nobody, except by [published ports](meta-plugins.md#published-ports-only)"},
		{Path: "internal", Default: "`false`", Ours: true, Doc: "`true`: nothing is forwarded to the network, nor from it; see [below](meta-plugins.md#an-internal-network)"},
		{Path: "backend", Doc: "where accept rules are made: `firewalld`, `iptables`, or **+** `nftables`, which makes none. Without the key: firewalld where it runs, and every table `filter` of iptables; where there is none yet, [it is made](meta-plugins.md#rules-that-let-through)"},
		{Path: "iptablesAdminChainName", Default: "`" + defaultAdminChain + "`", Doc: "a chain of iptables for your own rules, which come before the plugin's; it stays when the last container is gone. If the key is given, ADD fails where there is no table `filter` and none can be made"},
		{Path: "firewalldZone", Default: "`" + defaultZone + "`", Doc: "the zone of firewalld that the container's addresses are sources of. D-Bus is at `/run/dbus/system_bus_socket`, or where `DBUS_SYSTEM_BUS_ADDRESS` says"},
	})
}
