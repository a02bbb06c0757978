package bridge

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads. Those below ipam are the IPAM plugin's.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "bridge", Default: "`cni0`", Doc: "the bridge; made if missing, with a MAC of its own. One that exists keeps its MTU; it is brought up, gets the gateway address and, to have it, a MAC that stays"},
		{Path: "bridgeLifetime", Ours: true, Doc: "the bridge outlives its last container: gateway address, settings, listeners and neighbours stay. `auto`: a bridge that Trestle made (its MAC begins with `02:74:72`) goes with its last port, unless it carries anything that is not ours: a port, a link over it (macvlan, VLAN …), an address that is nobody's gateway. GC with an empty list of attachments takes such an idle bridge away in either case"},
		{Path: "isGateway", Default: "`false`", Doc: "the bridge has each subnet's gateway address, and the host forwards. `0.0.0.0` and `::`, from whichever IPAM plugin, are no gateway"},
		{Path: "isDefaultGateway", Default: "`false`", Doc: "as `isGateway`, and containers have a default route there, one for each family, unless IPAM gives one"},
		{Path: "forceAddress", Default: "`false`", Doc: "gateway addresses that this very network gave the bridge before are deleted when it gets another one of their family. An address of anybody else's stays; if it overlaps the new one, that is an error which names it and who uses it"},
		{Path: "mtu", Default: "`0`", Doc: "of a new bridge, or of one that Trestle made and that has no ports, 68 to 65535 (1280 or more with IPv6). 0: that of the route or link that a packet to the world leaves by, or 1500; at least 1280 with IPv6. The veth pair always has the bridge's: with several on one bridge, large packets vanish"},
		{Path: "hairpinMode", Default: "`false`", Doc: "the container reaches itself by a service address; not together with `promiscMode`"},
		{Path: "promiscMode", Default: "`false`", Doc: "the bridge is promiscuous"},
		{Path: "vlan", Default: "`0`", Doc: "untagged frames of the container belong to this VLAN, 1 to 4094; with `isGateway` the gateway is on `<bridge>.<vlan>`. `vlan_filtering` is switched on for a bridge that Trestle made; one of somebody else's must have it on already (error 2)"},
		{Path: "vlanTrunk", Doc: "`[{\"id\": 5}, {\"minID\": 10, \"maxID\": 20}]` pass tagged; without `vlan` untagged frames belong to VLAN 1"},
		{Path: "preserveDefaultVlan", Default: "`false`", Doc: "the port stays in the bridge's default VLAN (1, or its `vlan_default_pvid`) beside those: what is sent there reaches the container"},
		{Path: "macspoofchk", Default: "`false`", Doc: "only frames from the container's own MAC are let in: an element of each set in `table bridge trestle`, whose rule stays after the last port until GC"},
		{Path: "enabledad", Default: "`false`", Doc: "ADD waits until duplicate address detection is over, and fails where a neighbour has the address"},
		{Path: "disableContainerInterface", Default: "`false`", Doc: "the container's interface stays down; not together with `ipam`"},
		{Path: "portIsolation", Default: "`false`", Doc: "isolated ports reach the host and ports that are not isolated, but not each other"},
		{Path: "ipv6LinkLocal", Default: "`true`", Ours: true, Doc: "`false`: the container's interface gets no link-local IPv6 address (the host veth never has one). A network without IPv6 saves its share of the neighbour discovery that is flooded to all ports"},
		{Path: "dns", Doc: "replaces IPAM's dns if any of it is set"},
		{Path: "ipam", Open: true, Doc: "the IPAM plugin's configuration; without a `type` this is a layer 2 network"},
		{Path: "runtimeConfig.mac", Doc: "the container's MAC, by the capability `mac`"},
		{Path: "args.cni.mac", Doc: "the same, where the key above is not given"},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "the same, where neither is"},
	})
}
