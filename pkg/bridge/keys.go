package bridge

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads. Those below ipam are the IPAM plugin's.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "bridge", Default: "`cni0`", Doc: "the bridge; created if it does not exist, with a fixed MAC. An existing one keeps its MTU; it is set up and gets the gateway address, and its MAC is fixed for that"},
		{Path: "bridgeLifetime", Ours: true, Doc: "without it, the bridge outlives its last container, so that gateway address, settings, listeners and neighbour entries stay. `auto`: a bridge that Trestle created (its MAC begins with `02:74:72`) is deleted with its last port, unless it has anything that is not ours: a port, a link over it (macvlan, VLAN …), an address that is nobody's gateway. GC with an empty list of attachments deletes such an idle bridge in either case"},
		{Path: "isGateway", Default: "`false`", Doc: "the bridge has each subnet's gateway address, and the host forwards. `0.0.0.0` and `::`, from any IPAM plugin, mean no gateway"},
		{Path: "isDefaultGateway", Default: "`false`", Doc: "as `isGateway`, and containers have a default route there, one for each family, unless IPAM gives one"},
		{Path: "forceAddress", Default: "`false`", Doc: "if the bridge gets another gateway address, those of the same family that this network gave it before are deleted. Addresses of others stay; one that overlaps the new address is an error, which names it and the networks that use it"},
		{Path: "mtu", Default: "`0`", Doc: "the MTU of a new bridge, or of one that Trestle created and that has no ports: 68 to 65535 (1280 or more with IPv6). 0: that of the default route or of its link, or 1500; at least 1280 with IPv6. The veth pair always has the bridge's MTU, since a bridge drops packets that are too large for a port"},
		{Path: "hairpinMode", Default: "`false`", Doc: "the container reaches itself by a service address; not together with `promiscMode`"},
		{Path: "promiscMode", Default: "`false`", Doc: "the bridge is promiscuous"},
		{Path: "vlan", Default: "`0`", Doc: "untagged frames of the container belong to this VLAN, 1 to 4094; with `isGateway` the gateway is on `<bridge>.<vlan>`. `vlan_filtering` is switched on for a bridge that Trestle created; any other bridge must have it on already (error 2)"},
		{Path: "vlanTrunk", Doc: "VLANs that pass tagged: `[{\"id\": 5}, {\"minID\": 10, \"maxID\": 20}]`; without `vlan`, untagged frames belong to VLAN 1"},
		{Path: "preserveDefaultVlan", Default: "`false`", Doc: "the port stays in the bridge's default VLAN (1, or its `vlan_default_pvid`), too: frames of that VLAN reach the container"},
		{Path: "macspoofchk", Default: "`false`", Doc: "only frames from the container's own MAC are let in. The port has an element in each set of `table bridge trestle`, whose rule stays until GC"},
		{Path: "enabledad", Default: "`false`", Doc: "ADD waits until duplicate address detection is over, and fails if a neighbour has the address"},
		{Path: "disableContainerInterface", Default: "`false`", Doc: "the container's interface stays down; not together with `ipam`"},
		{Path: "portIsolation", Default: "`false`", Doc: "isolated ports reach the host and ports that are not isolated, but not each other"},
		{Path: "ipv6LinkLocal", Default: "`true`", Ours: true, Doc: "`false`: the container's interface gets no link-local IPv6 address (the host veth never has one). A network without IPv6 saves its share of the neighbour discovery that is flooded to all ports"},
		{Path: "dns", Doc: "replaces IPAM's `dns` if any of its keys is set"},
		{Path: "ipam", Open: true, Doc: "the IPAM plugin's configuration; without a `type` this is a layer 2 network"},
		{Path: "runtimeConfig.mac", Doc: "the container's MAC, by the capability `mac`"},
		{Path: "args.cni.mac", Doc: "the same, if the key above is not given"},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "the same, if neither is given"},
	})
}
