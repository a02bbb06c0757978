// Package lab gives a test several throw-away hosts on one switch. Each is a host of
// package host, with files and processes of its own; the switch is one more, where
// stores run.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

// Bridge is the switch's bridge, on the host Switch.
const Bridge = "sw0"

// Lab is a switch and the hosts on it, all gone with the test.
type Lab struct {
	host.T
	Switch *host.Host
	hosts  int
}

// The addresses of the switch, which the hosts' default routes lead to.
var (
	SwitchIPv4 = netip.MustParsePrefix("203.0.113.1/24")
	SwitchIPv6 = netip.MustParsePrefix("2001:db8:1::1/64")
)

// Host is a host on the switch, by its device eth0.
type Host struct {
	*host.Host
	Name string
	Port string // its device on the switch
	IPv4 netip.Addr
	IPv6 netip.Addr
	Env  []string // of its agent
}

// New makes a switch without hosts.
func New(t host.T) *Lab {
	t.Helper()
	l := &Lab{T: t, Switch: host.New(t)}
	l.Switch.MustRun("ip", "link", "del", host.Uplink)
	// Its MAC is fixed. A bridge without one takes that of its lowest port, another one when a
	// host is plugged in, and the hosts' packets to the one they know are dropped for 45 s.
	l.Switch.MustRun("ip", "link", "add", Bridge, "address", "02:00:00:00:00:01", "type", "bridge")
	l.Switch.MustRun("ip", "link", "set", Bridge, "up")
	l.Switch.MustRun("ip", "address", "add", SwitchIPv4.String(), "dev", Bridge)
	l.Switch.MustRun("ip", "address", "add", SwitchIPv6.String(), "dev", Bridge, "nodad")
	l.Switch.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1")
	return l
}

// Host makes a host on the switch, with an address of each family and default routes.
func (l *Lab) Host(name string) *Host {
	l.Helper()
	return l.Plug(host.New(l.T), name)
}

// Plug puts a host that there is on the switch, in place of its uplink.
func (l *Lab) Plug(on *host.Host, name string) *Host {
	l.Helper()
	l.hosts++
	h := &Host{Host: on, Name: name, Port: "p-" + name}
	h.Namespace.Name = name
	h.MustRun("ip", "link", "del", host.Uplink)
	if err := l.plug(h); err != nil {
		l.Fatalf("plug %s into the switch: %v", name, err)
	}
	h.IPv4 = netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + l.hosts)})
	h.IPv6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", 10+l.hosts))
	h.MustRun("ip", "link", "set", "eth0", "up")
	h.Address("add", h.IPv4, 24)
	h.Address("add", h.IPv6, 64)
	h.DefaultRoutes()
	return h
}

// Address adds or deletes an address of eth0.
func (h *Host) Address(verb string, addr netip.Addr, bits int) {
	args := []string{"ip", "address", verb, netip.PrefixFrom(addr, bits).String(), "dev", "eth0"}
	if addr.Is6() && verb == "add" {
		args = append(args, "nodad")
	}
	h.MustRun(args...)
}

// DefaultRoutes makes those that the host lacks.
func (h *Host) DefaultRoutes() {
	h.MustRun("ip", "route", "replace", "default", "via", SwitchIPv4.Addr().String())
	h.MustRun("ip", "-6", "route", "replace", "default", "via", SwitchIPv6.Addr().String())
}

// plug makes the pair of devices, one end on the switch, the other in the host.
func (l *Lab) plug(h *Host) error {
	space := -1
	err := h.Do(func() error {
		socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		space, err = unix.IoctlRetInt(socket, unix.SIOCGSKNS) // its namespace; /proc here does not know this thread
		return errors.Join(err, unix.Close(socket))
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(space) }() // opened for reading only
	return l.Switch.Do(func() error {
		bridge, err := netlink.LinkByName(Bridge)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: h.Port, MasterIndex: bridge.Attrs().Index, Flags: net.FlagUp},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(space),
		}
		return netlink.LinkAdd(veth)
	})
}

// Cut takes the host off the switch, and Mend puts it back.
func (l *Lab) Cut(h *Host) { l.Switch.MustRun("ip", "link", "set", h.Port, "down") }

// Mend puts a host back on the switch.
func (l *Lab) Mend(h *Host) { l.Switch.MustRun("ip", "link", "set", h.Port, "up") }

// Write writes a file on the host, and its directory.
func (h *Host) Write(path, content string) {
	h.MustRun("mkdir", "-p", path[:strings.LastIndexByte(path, '/')])
	output, err := h.Run(host.Command{Args: []string{"sh", "-c", "cat >" + path}, Stdin: content})
	if err != nil || output.Code != 0 {
		panic(fmt.Sprintf("write %s: %v %v", path, output, err))
	}
}
