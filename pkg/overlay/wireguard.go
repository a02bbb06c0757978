package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// errNoWireGuard is for a kernel without WireGuard.
var errNoWireGuard = errors.New(`the kernel has no WireGuard (Linux 5.6 has, as the module "wireguard": modprobe wireguard, or install it); ` +
	`without it choose another backend for all hosts ("backend": "vxlan", by trestle cluster config set, or in cluster.json)`)

// SetKey sets the private key that Apply gives the WireGuard device.
func (h *Host) SetKey(key wgtypes.Key) { h.key = key }

// CheckBackend is an error where the kernel lacks what the backend needs. It changes
// nothing.
func (h *Host) CheckBackend(b Backend) error {
	if b != WireGuardOnly {
		return nil
	}
	// The kernel refuses a device without queues with EINVAL (rtnl_create_link,
	// net/core/rtnetlink.c), but only after it has found the type, whose module it loads.
	request, _ := newLink(WireGuardName, "wireguard")
	request.AddData(nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(0)))
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errNoWireGuard
	}
	return nil
}

// deviceGroup is the group of the WireGuard device (ip link show group 116). It marks the
// device as ours from the first: the kernel takes a group in the message that adds a device,
// and no alias.
const deviceGroup = uint32(Protocol)

// isOurs tells our WireGuard device from another program's with that name: by its alias; by
// its key; or by its group, where Apply was killed before it could set either.
func isOurs(attrs *netlink.LinkAttrs, device *wgtypes.Device, key wgtypes.Key) bool {
	var none wgtypes.Key
	isNew := device.PrivateKey == none && len(device.Peers) == 0
	return attrs.Alias == alias || device.PrivateKey == key && key != none || attrs.Group == deviceGroup && isNew
}

// observeWireGuard reads the device. Another program's with that name is an error where ours
// is wanted.
func (h *Host) observeWireGuard(f *Found, want State) (index int, err error) {
	wanted := want.WireGuard != nil
	link, err := h.link(WireGuardName)
	if err != nil || link == nil {
		return 0, err
	}
	if link.Type() != "wireguard" && !wanted {
		return 0, nil
	}
	if link.Type() != "wireguard" {
		return 0, fmt.Errorf("%s is a device of type %s that Trestle did not make; rename or delete it", WireGuardName, link.Type())
	}
	device, err := h.wireGuardDevice()
	if err != nil || device == nil {
		return 0, err
	}
	attrs := link.Attrs()
	ours := isOurs(attrs, device, h.key)
	if !ours && !wanted {
		return 0, nil
	}
	if !ours {
		return 0, fmt.Errorf("%s is a WireGuard device that Trestle did not make: it has neither our alias nor this host's key; rename or delete it", WireGuardName)
	}
	f.WireGuardUp = works(attrs, want)
	f.WireGuard = &WireGuard{PublicKey: device.PublicKey.String(), Port: device.ListenPort, MTU: attrs.MTU}
	if f.WireGuard.Addresses, err = h.addressesOf(link); err != nil {
		return 0, err
	}
	f.Endpoints = Endpoints{Published: h.published, Silent: map[string]bool{}}
	for _, p := range device.Peers {
		f.WireGuard.Peers = append(f.WireGuard.Peers, peerOfDevice(p))
		f.Endpoints.Silent[p.PublicKey.String()] = h.isSilent(p, time.Now())
	}
	return attrs.Index, nil
}

// wireGuardDevice is the device as WireGuard shows it; nil if there is none.
func (h *Host) wireGuardDevice() (*wgtypes.Device, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("open WireGuard's netlink: %w", err)
	}
	defer func() { _ = client.Close() }() // only read from
	device, err := client.Device(WireGuardName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", WireGuardName, err)
	}
	return device, nil
}

func peerOfDevice(p wgtypes.Peer) WireGuardPeer {
	peer := WireGuardPeer{Key: p.PublicKey.String(), Keepalive: p.PersistentKeepaliveInterval}
	if p.Endpoint != nil {
		endpoint := p.Endpoint.AddrPort()
		peer.Endpoint = netip.AddrPortFrom(endpoint.Addr().Unmap(), endpoint.Port())
	}
	for _, a := range p.AllowedIPs {
		if prefix, ok := prefixOf(&a); ok {
			peer.Allowed = append(peer.Allowed, prefix)
		}
	}
	return peer
}

// isSilent notes the device's counters of a peer, and says whether the peer is silent.
func (h *Host) isSilent(p wgtypes.Peer, now time.Time) bool {
	key := p.PublicKey.String()
	if h.heard == nil {
		h.heard = map[string]sighting{}
	}
	seen, known := h.heard[key]
	if !known {
		seen = sighting{received: p.ReceiveBytes, sent: p.TransmitBytes}
	}
	h.heard[key] = seen.next(p.ReceiveBytes, p.TransmitBytes, now)
	return h.heard[key].isSilent(now)
}

// applyWireGuard adds, configures or removes the device, and its peers.
func (h *Host) applyWireGuard(c Changes) error {
	want := c.Want.WireGuard
	if c.RemoveWireGuard {
		return h.removeLink(WireGuardName)
	}
	if want == nil {
		return nil
	}
	if c.MakeWireGuard {
		request, _ := newLink(WireGuardName, "wireguard")
		request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(deviceGroup)))
		_, err := request.Execute(unix.NETLINK_ROUTE, 0)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("make %s: %w", WireGuardName, errNoWireGuard)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make %s: %w", WireGuardName, err)
		}
	}
	if err := h.configure(c); err != nil {
		return err
	}
	h.published = map[string]netip.AddrPort{}
	for _, p := range want.Peers {
		if p.Endpoint.IsValid() {
			h.published[p.Key] = p.Endpoint
		}
	}
	return nil
}

// configure sets key, port and peers. Peers are removed first: a subnet that moves from one
// peer to another belongs to whichever peer was set last.
func (h *Host) configure(c Changes) error {
	var config wgtypes.Config
	if c.MakeWireGuard || c.SetWireGuard {
		config.PrivateKey, config.ListenPort = &h.key, &c.Want.WireGuard.Port
	}
	for _, text := range c.DelPeers {
		key, err := wgtypes.ParseKey(text)
		if err != nil {
			return fmt.Errorf("peer %s of %s: %w", text, WireGuardName, err)
		}
		config.Peers = append(config.Peers, wgtypes.PeerConfig{PublicKey: key, Remove: true, UpdateOnly: true})
	}
	for _, p := range c.SetPeers {
		peer, err := p.library()
		if err != nil {
			return fmt.Errorf("peer %s of %s: %w", p.Key, WireGuardName, err)
		}
		config.Peers = append(config.Peers, peer)
	}
	if config.PrivateKey == nil && len(config.Peers) == 0 {
		return nil
	}
	client, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("open WireGuard's netlink: %w", err)
	}
	defer func() { _ = client.Close() }() // the device is configured by then
	switch err := client.ConfigureDevice(WireGuardName, config); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s is gone again", WireGuardName)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("set %s: %w", WireGuardName, portTaken(c.Want.WireGuard.Port))
	case err != nil:
		return fmt.Errorf("set %s: %w", WireGuardName, err)
	}
	return nil
}

func portTaken(port int) error {
	return fmt.Errorf("UDP port %d is another program's (ss -lunp); set another port for all hosts (trestle cluster config set): %w", port, unix.EADDRINUSE)
}

func (p WireGuardPeer) library() (wgtypes.PeerConfig, error) {
	key, err := wgtypes.ParseKey(p.Key)
	config := wgtypes.PeerConfig{PublicKey: key, ReplaceAllowedIPs: true, PersistentKeepaliveInterval: &p.Keepalive}
	if p.Endpoint.IsValid() {
		config.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
	}
	for _, a := range p.Allowed {
		config.AllowedIPs = append(config.AllowedIPs, *ipNet(a))
	}
	return config, err
}
