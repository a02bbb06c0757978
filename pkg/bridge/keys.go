package bridge

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are those of ParseConfig. That of ipam leads to the keys of its plugin.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "bridge", Default: "`cni0`", Doc: "the bridge; made if missing, with a MAC of its own. One that exists keeps its MTU, but for what `mtu` says; it is brought up, gets the gateway address and, if it was not made by Trestle, keeps its MAC from then on, whatever ports come and go"},
		{Path: "bridgeLifetime", Ours: true, Doc: "without the key the bridge outlives its last container: gateway address, settings, listeners and neighbours stay. `auto`: a bridge that Trestle made (its MAC begins with `02:74:72`) is removed with its last port, unless it carries anything that is not Trestle's: a port, a link over it (macvlan, VLAN …), an address that is nobody's gateway. GC with an empty list of attachments removes such an idle bridge in either case"},
		{Path: "isGateway", Default: "`false`", Doc: "the bridge has each subnet's gateway address, and the host forwards. `0.0.0.0` and `::`, from whichever IPAM plugin, are no gateway"},
		{Path: "isDefaultGateway", Default: "`false`", Doc: "as `isGateway`, and containers have a default route there, one for each family, unless IPAM gives one"},
		{Path: "forceAddress", Default: "`false`", Doc: "gateway addresses that this same network gave the bridge before are deleted when it gets another one of their family. Any other address stays; if it overlaps the new one, ADD fails (code 102) and names it and who uses it"},
		{Path: "mtu", Default: "`0`", Doc: "of a new bridge, or of one that Trestle made and that has no ports, 68 to 65535 (1280 or more with IPv6). 0: that of the default route or its link, or 1500 without one; at least 1280 with IPv6. The veth pair always has the bridge's MTU: between ports with different MTUs large packets are lost"},
		{Path: "hairpinMode", Default: "`false`", Doc: "the bridge may send a frame back out of the port that it came from, so that the container reaches itself by the address of a service; not together with `promiscMode`. Mapped ports switch it on where they need it"},
		{Path: "promiscMode", Default: "`false`", Doc: "the bridge is promiscuous"},
		{Path: "vlan", Default: "`0`", Doc: "untagged frames of the container belong to this VLAN, 1 to 4094; with `isGateway` the gateway is on `<bridge>.<vlan>`. `vlan_filtering` is switched on for a bridge that Trestle made; any other bridge must have it on already (code 2)"},
		{Path: "vlanTrunk", Doc: "`[{\"id\": 5}, {\"minID\": 10, \"maxID\": 20}]` pass tagged; without `vlan` untagged frames belong to VLAN 1"},
		{Path: "preserveDefaultVlan", Default: "`false`", Doc: "the port stays in the bridge's default VLAN (1, or its `vlan_default_pvid`) beside those: what is sent in that VLAN reaches the container"},
		{Path: "macspoofchk", Default: "`false`", Doc: "only frames with the container's own MAC as source are let in. It needs nf_tables: `table bridge trestle`, an element for each container in its sets"},
		{Path: "enabledad", Default: "`false`", Doc: "ADD waits until duplicate address detection (IPv6) is over, and fails if a neighbour has the address"},
		{Path: "disableContainerInterface", Default: "`false`", Doc: "the container's interface stays down; not together with `ipam`"},
		{Path: "portIsolation", Default: "`false`", Doc: "the port is isolated (bridge(8)): isolated ports reach the host and ports that are not isolated, but not each other"},
		{Path: "ipv6LinkLocal", Default: "`true`", Ours: true, Doc: "`false`: the container's interface gets no link-local IPv6 address (the host veth never has one). On a bridge with hundreds of ports this saves milliseconds of each ADD, since IPv6 neighbour discovery is flooded to every port"},
		{Path: "dns", Doc: "replaces IPAM's dns if any of it is set"},
		{Path: "ipam", Open: true, Doc: "the IPAM plugin's configuration; without `type` the network is a layer 2 network: containers get no addresses"},
		{Path: "runtimeConfig.mac", Doc: "the container's MAC, by the capability `mac`"},
		{Path: "args.cni.mac", Doc: "the same, where the key above is not given"},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "the same, where neither is"},
	})
}
