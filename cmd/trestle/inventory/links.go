package inventory

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
)

// Link is an interface of the host.
type Link struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
	Kind  string `json:"kind"` // "bridge", "veth" …; "device" for hardware
	MAC   string `json:"mac,omitempty"`
	MTU   int    `json:"mtu"`
	Up    bool   `json:"up"`
	// Operational is the operstate: "up", "down", "lowerlayerdown", "unknown".
	Operational string `json:"operational"`
	// Master is the name of the bridge or bond that it is a port of.
	Master string `json:"master,omitempty"`
	// Peer is the index of a veth's other end, or of the link below a VLAN, in the
	// namespace whose id here is PeerNetNS; -1 stands for this namespace.
	Peer      int `json:"peer,omitempty"`
	PeerNetNS int `json:"peerNetNS"`
	// PeerNetNSName is that namespace's name, if it has one and the veth is not an
	// attachment's.
	PeerNetNSName string `json:"peerNetNSName,omitempty"`
	VLAN          int    `json:"vlan,omitempty"`
	// VNI and VXLANPort are a VXLAN device's.
	VNI       int `json:"vni,omitempty"`
	VXLANPort int `json:"vxlanPort,omitempty"`
	// VLANFiltering is a bridge's.
	VLANFiltering bool `json:"vlanFiltering,omitempty"`
	// PortVLANs are the VLANs of a port of such a bridge, or of the bridge itself.
	PortVLANs []PortVLANs    `json:"portVLANs,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Alias     string         `json:"alias,omitempty"`
	// Owner is the owner's label in the alias of one of Trestle's host veths.
	Owner string `json:"owner,omitempty"`
	// Ours says that Trestle made it: by the alias of a host veth, by the MAC of a bridge.
	Ours bool `json:"ours"`
	// Traffic is as the host sees it.
	Traffic Traffic `json:"traffic"`
}

// Route is a route of the host's main table.
type Route struct {
	// To is the destination; 0.0.0.0/0 or ::/0 for a default route.
	To      netip.Prefix `json:"to"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Link    string       `json:"link,omitempty"`
	Metric  int          `json:"metric,omitempty"`
	// Protocol is what made it: "kernel", "static", or a number (ip-route(8)).
	Protocol string `json:"protocol,omitempty"`
	// Unreachable says that it is an unreachable route, for addresses without a better
	// one.
	Unreachable bool `json:"unreachable,omitempty"`
}

// links reads all links, addresses, VLANs and routes, each with one dump (routes: one for each
// family).
func (t *taking) links() error {
	links, err := dump.Complete(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	at := map[int]int{}
	for i, link := range links {
		at[link.Attrs().Index] = i
		t.snapshot.Links = append(t.snapshot.Links, linkOf(link, names))
	}
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if i, ok := at[a.LinkIndex]; ok {
			t.snapshot.Links[i].Addresses = append(t.snapshot.Links[i].Addresses, prefixOf(a.IPNet))
		}
	}
	if err := t.vlans(); err != nil {
		return err
	}
	return t.routes(names)
}

func (t *taking) routes(names map[int]string) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump.Complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			to := prefixOf(r.Dst)
			if r.Dst == nil {
				to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
				if family == netlink.FAMILY_V6 {
					to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
				}
			}
			gateway, _ := netip.AddrFromSlice(r.Gw) // none: the zero Addr
			if via, ok := r.Via.(*netlink.Via); ok {
				gateway, _ = netip.AddrFromSlice(via.Addr) // IPv4 via an IPv6 next hop
			}
			t.snapshot.Routes = append(t.snapshot.Routes, Route{
				To:      to,
				Gateway: gateway.Unmap(),
				Link:    names[r.LinkIndex],
				Metric:  r.Priority,

				Protocol:    r.Protocol.String(),
				Unreachable: r.Type == unix.RTN_UNREACHABLE,
			})
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	address, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), ones)
}

func linkOf(link netlink.Link, names map[int]string) Link {
	attrs := link.Attrs()
	l := Link{
		Index: attrs.Index, Name: attrs.Name, Kind: link.Type(), MAC: attrs.HardwareAddr.String(), MTU: attrs.MTU,
		Up: attrs.Flags&net.FlagUp != 0, Operational: attrs.OperState.String(), Master: names[attrs.MasterIndex],
		Peer: attrs.ParentIndex, PeerNetNS: attrs.NetNsID, Alias: attrs.Alias,
	}
	if label, ok := bridge.Label(attrs.Alias); ok {
		l.Owner, l.Ours = label, true
	}
	switch typed := link.(type) {
	case *netlink.Bridge:
		l.Ours = bridge.IsOurs(attrs.HardwareAddr)
		l.VLANFiltering = typed.VlanFiltering != nil && *typed.VlanFiltering
	case *netlink.Vlan:
		l.VLAN = typed.VlanId
	case *netlink.Vxlan:
		l.VNI, l.VXLANPort = typed.VxlanId, typed.Port
	}
	if s := attrs.Statistics; s != nil {
		l.Traffic = Traffic{
			RxBytes: s.RxBytes, TxBytes: s.TxBytes, RxPackets: s.RxPackets, TxPackets: s.TxPackets,
			RxDropped: s.RxDropped, TxDropped: s.TxDropped,
		}
	}
	return l
}

// aliases joins the host veths with their owners: by alias, by the name that is made from the
// owner's hash, or by the name in the runtime's cache.
func (t *taking) aliases() {
	byName := map[string]*Link{}
	for i := range t.snapshot.Links {
		l := &t.snapshot.Links[i]
		byName[l.Name] = l
		if o, ok := cni.ParseOwner(l.Owner); ok {
			t.at(o).plug(l)
		}
	}
	for _, a := range t.order {
		names := []string{bridge.HostName(cni.Owner{Network: a.Network, ContainerID: a.Container, IfName: a.IfName}), a.HostLink}
		if a.Evidence.Link {
			continue
		}
		a.HostLink = ""
		i := slices.IndexFunc(names, func(name string) bool { return byName[name] != nil })
		if i >= 0 {
			a.plug(byName[names[i]])
		}
	}
}

// plug sets the host veth. Its counters are the container's with directions swapped.
func (a *Attachment) plug(l *Link) {
	a.HostLink, a.Bridge, a.Evidence.Link = l.Name, l.Master, true
	a.ByTrestle = a.ByTrestle || l.Ours
	a.Traffic = Traffic{
		RxBytes: l.Traffic.TxBytes, TxBytes: l.Traffic.RxBytes, RxPackets: l.Traffic.TxPackets, TxPackets: l.Traffic.RxPackets,
		RxDropped: l.Traffic.TxDropped, TxDropped: l.Traffic.RxDropped,
	}
}
