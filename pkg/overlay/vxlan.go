package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// applyTunnel removes and adds the VXLAN device.
func (h *Host) applyTunnel(c Changes) error {
	if c.Renamed != "" {
		if err := h.removeLink(c.Renamed); err != nil {
			return err
		}
	}
	if c.Remove != nil {
		if err := h.removeLink(TunnelName); err != nil {
			return err
		}
	}
	if c.Make != nil {
		return h.makeTunnel(*c.Make)
	}
	return nil
}

// makeTunnel adds the device in one message of our own: the library cannot switch checksums
// off. It does not learn addresses from packets: entries are added for the peers alone.
func (h *Host) makeTunnel(t Tunnel) error {
	mac, err := net.ParseMAC(t.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", TunnelName, err)
	}
	request, info := newLink(TunnelName, "vxlan")
	request.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	request.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(t.MTU))))
	t.attributes(info.AddRtAttr(nl.IFLA_INFO_DATA, nil))
	_, err = request.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EADDRINUSE) {
		err = errors.Join(err, h.whoHas(t))
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("make %s: the kernel has no vxlan (modprobe vxlan): %w", TunnelName, err)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", TunnelName, err)
	}
	return nil
}

func (t Tunnel) attributes(data *nl.RtAttr) {
	bit := func(on bool) []byte {
		if on {
			return []byte{1}
		}
		return []byte{0}
	}
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(t.VNI)))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, uint16(t.Port)))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, bit(false))
	if t.Local.Is4() {
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL, t.Local.AsSlice())
		data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, bit(!t.NoTxChecksum))
		return
	}
	data.AddRtAttr(nl.IFLA_VXLAN_LOCAL6, t.Local.AsSlice())
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, bit(t.NoTxChecksum))
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, bit(true)) // a peer may send without checksums
}

// wayOutOfTaken changes the configuration of all hosts.
const wayOutOfTaken = "set another vni or port (trestle cluster config set)"

// whoHas names what has the tunnel's VNI and port: another VXLAN device with both, one that
// has the port for all VNIs (Cilium's, "external"), or one with group policies, with which
// the kernel shares no socket (vxlan_find_sock, drivers/net/vxlan). What is left cannot be
// seen from this namespace.
func (h *Host) whoHas(t Tunnel) error {
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		vx, ok := link.(*netlink.Vxlan)
		if !ok || vx.Name == TunnelName || vx.Port != t.Port {
			continue
		}
		switch {
		case vx.FlowBased:
			return fmt.Errorf("%s has port %d for all VNIs; %s", vx.Name, vx.Port, wayOutOfTaken)
		case vx.VxlanId == t.VNI:
			return fmt.Errorf("%s has VNI %d on port %d; %s", vx.Name, vx.VxlanId, vx.Port, wayOutOfTaken)
		case vx.GBP:
			return fmt.Errorf("%s has port %d for packets with group policies; %s", vx.Name, vx.Port, wayOutOfTaken)
		}
	}
	return fmt.Errorf("VNI %d or port %d is that of a program (ss -lunp), or of a device that was moved from here to another namespace, as Docker's overlay does; %s",
		t.VNI, t.Port, wayOutOfTaken)
}
