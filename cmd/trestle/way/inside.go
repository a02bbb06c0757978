package way

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// route is the outcome of a route lookup.
type route struct {
	link    string
	gateway netip.Addr
	source  netip.Addr
	table   int
}

func (r route) String() string {
	text := "dev " + r.link
	if r.gateway.IsValid() {
		text = "via " + r.gateway.String() + " " + text
	}
	if r.source.IsValid() {
		text += ", from " + r.source.String()
	}
	return text
}

// routeTo looks up a route in the caller's namespace. in and source are a forwarded packet's, or
// empty.
func routeTo(to netip.Addr, in string, source netip.Addr) (route, error) {
	options := &netlink.RouteGetOptions{Iif: in}
	if source.IsValid() {
		options.SrcAddr = source.AsSlice()
	}
	found, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil {
		return route{}, err
	}
	if len(found) == 0 {
		return route{}, errors.New("no route")
	}
	r := route{gateway: addr(found[0].Gw), source: addr(found[0].Src), table: found[0].Table}
	if via, ok := found[0].Via.(*netlink.Via); ok { // IPv4 via an IPv6 next hop
		r.gateway = addr(via.Addr)
	}
	if link, err := netlink.LinkByIndex(found[0].LinkIndex); err == nil {
		r.link = link.Attrs().Name
	}
	if found[0].Type == unix.RTN_UNREACHABLE || found[0].Type == unix.RTN_BLACKHOLE || found[0].Type == unix.RTN_PROHIBIT {
		return r, errors.New("the route to it is of type unreachable, blackhole or prohibit")
	}
	return r, nil
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip) // none: the zero Addr
	return a.Unmap()
}

// inside runs look in the container's namespace.
func (t *traveller) inside(look func() error) error {
	if t.of.NetNS == "" {
		return errors.New("the path of its namespace is not recorded")
	}
	return netns.Enter(t.of.NetNS, look)
}

// interfaceAndRoute checks the container's interface and its route to an address.
func (t *traveller) interfaceAndRoute(to netip.Addr) bool {
	var link netlink.Link
	var way route
	var neighbour string
	var routeErr error
	err := t.inside(func() (err error) {
		if link, err = netlink.LinkByName(t.of.IfName); err != nil {
			return fmt.Errorf("%s: %w", t.of.IfName, err)
		}
		if way, routeErr = routeTo(to, "", netip.Addr{}); routeErr == nil {
			neighbour = neighbourOf(link, next(way, to))
		}
		return nil
	})
	if err != nil {
		return t.maybe("interface", "", "the container's namespace cannot be entered: %v", err)
	}
	t.onLink = routeErr == nil && !way.gateway.IsValid()
	attrs := link.Attrs()
	if attrs.Flags&net.FlagUp == 0 {
		return t.stops("interface", fmt.Sprintf("nsenter --net=%s ip link set %s up", t.of.NetNS, attrs.Name), "%s is down", attrs.Name)
	}
	t.passes("interface", "%s, MAC %s, MTU %d, %s", attrs.Name, attrs.HardwareAddr, attrs.MTU, attrs.OperState)
	switch {
	case routeErr != nil && t.network.Internal:
		return t.stops("route", "trestle network inspect "+t.network.Name, "the network is internal: it has no route to %s", to)
	case routeErr != nil:
		return t.stops("route", "trestle validate", `the container has no route to %s (%v): "isDefaultGateway": true, or a route in ipam.routes, is missing`, to, routeErr)
	case way.link != t.of.IfName:
		return t.stops("route", "", "the container's route is %s, by another network", way)
	}
	return t.passes("route", "%s; next hop %s: %s", way, next(way, to), neighbour)
}

func next(r route, to netip.Addr) netip.Addr {
	if r.gateway.IsValid() {
		return r.gateway
	}
	return to
}

// silent is neighbourOf's answer for a neighbour that did not answer.
const silent = "it does not answer"

// neighbourOf is the neighbour's MAC in the namespace's neighbour table, or why there is none.
func neighbourOf(link netlink.Link, address netip.Addr) string {
	family := netlink.FAMILY_V6
	if address.Is4() {
		family = netlink.FAMILY_V4
	}
	list, err := dump.Complete(func() ([]netlink.Neigh, error) { return netlink.NeighList(link.Attrs().Index, family) })
	if err != nil {
		return err.Error()
	}
	for _, n := range list {
		if addr(n.IP) != address {
			continue
		}
		if n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) != 0 {
			return silent
		}
		return n.HardwareAddr.String()
	}
	return "not asked yet"
}

// listens says whether a program in the container listens on the port.
func (t *traveller) listens(address netip.Addr, port uint16) bool {
	found, wrongAddress := false, false
	err := t.inside(func() error {
		for _, file := range []string{t.packet.Protocol, t.packet.Protocol + "6"} {
			sockets, err := readSockets("/proc/thread-self/net/"+file, t.packet.Protocol == "tcp")
			if err != nil {
				return err
			}
			for _, s := range sockets {
				if s.Port() != port {
					continue
				}
				if s.Addr().IsUnspecified() || s.Addr().Unmap() == address {
					found = true
				}
				wrongAddress = true
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return t.maybe("program", "", "the sockets cannot be listed: %v", err)
	case found:
		return t.passes("program", "a program listens on %s/%d", t.packet.Protocol, port)
	case wrongAddress:
		return t.stops("program", "", "a program listens on %s/%d, but not on %s: make it listen on all addresses", t.packet.Protocol, port, address)
	}
	return t.stops("program", fmt.Sprintf("nsenter --net=%s ss -ln", t.of.NetNS), "no program listens on %s/%d in the container", t.packet.Protocol, port)
}

// listening is the state of a listening TCP socket (TCP_LISTEN, include/net/tcp_states.h).
const listening = "0A"

// readSockets returns the local addresses of listening TCP sockets, or of UDP sockets (proc(5)).
func readSockets(file string, tcp bool) ([]netip.AddrPort, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no IPv6
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []netip.AddrPort
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || tcp && fields[3] != listening {
			continue
		}
		if end, ok := parseEnd(fields[1]); ok {
			all = append(all, end)
		}
	}
	return all, lines.Err()
}

// parseEnd reads an address like "0100007F:1F90", 32-bit words in the host's byte order.
func parseEnd(text string) (netip.AddrPort, bool) {
	address, portText, _ := strings.Cut(text, ":")
	port, err := strconv.ParseUint(portText, 16, 16)
	if err != nil || len(address)%8 != 0 {
		return netip.AddrPort{}, false
	}
	var raw []byte
	for i := 0; i < len(address); i += 8 {
		word, err := strconv.ParseUint(address[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		raw = append(raw, nativeEndian(uint32(word))...)
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(port)), ok
}
