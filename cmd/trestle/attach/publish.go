package attach

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	portspec "github.com/docker/go-connections/nat"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// Publication is one port of the container that is to be published on a host port.
type Publication struct {
	Protocol string
	// HostIP is the host's address; an invalid one stands for all.
	HostIP netip.Addr
	// First to Last are the host ports of which one is chosen; both are 0 for any free one.
	First, Last uint16
	Container   uint16
}

const publishLike = "8080:80, 127.0.0.1:8080-8090:80-90/udp, or 80 for a free port of the host"

// ParsePublish reads the values of --publish, which have docker's syntax, with docker's parser.
func ParsePublish(texts []string) ([]Publication, error) {
	var all []Publication
	for _, text := range texts {
		mappings, err := portspec.ParsePortSpec(text)
		if err != nil {
			return nil, cni.ConfigErrorf("--publish: %q: %w; write it like %s", text, err, publishLike)
		}
		for _, m := range mappings {
			p, err := publicationOf(m)
			if err != nil {
				return nil, cni.ConfigErrorf("--publish: %q: %w; write it like %s", text, err, publishLike)
			}
			all = append(all, p)
		}
	}
	for i, p := range all {
		for _, other := range all[:i] {
			if p.clashes(other) {
				return nil, cni.ConfigErrorf("--publish: host port %d/%s is given twice; choose another for one of them", p.First, p.Protocol)
			}
		}
	}
	return all, nil
}

func publicationOf(m portspec.PortMapping) (Publication, error) {
	p := Publication{Protocol: m.Port.Proto(), Container: uint16(m.Port.Int())}
	if m.Binding.HostIP != "" {
		address, err := netip.ParseAddr(m.Binding.HostIP)
		if err != nil {
			return p, err
		}
		if address = address.Unmap(); !address.IsUnspecified() || address.Is6() {
			p.HostIP = address
		}
	}
	first, last, err := portspec.ParsePortRangeToInt(m.Binding.HostPort)
	if err != nil {
		return p, err
	}
	p.First, p.Last = uint16(first), uint16(last)
	if p.Container == 0 || m.Binding.HostPort != "" && p.First == 0 {
		return p, errors.New("0 is not a port")
	}
	return p, nil
}

// clashes says whether both ask for the same host port.
func (p Publication) clashes(other Publication) bool {
	return p.First != 0 && p.First == p.Last && other.First == p.First && other.Last == p.Last && p.Protocol == other.Protocol &&
		overlap(p.HostIP, other.HostIP)
}

// overlap says whether ports on two addresses conflict. An invalid or unspecified address
// stands for all addresses.
func overlap(a, b netip.Addr) bool {
	every := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	if a.IsValid() && b.IsValid() && a.Is4() != b.Is4() {
		return false
	}
	return every(a) || every(b) || a == b
}

// mapping is a port mapping as portmap reads it (CNI, CONVENTIONS.md).
type mapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// chosen are the mappings, and sockets that keep other processes from choosing the same free
// host ports until they are mapped.
type chosen struct {
	mappings []mapping
	held     []interface{ Close() error }
}

func (c chosen) release() {
	for _, socket := range c.held {
		_ = socket.Close() // nothing was written
	}
}

// choose chooses host ports where the publication leaves that open, and refuses taken ones.
func choose(publications []Publication, snapshot *inventory.Snapshot) (chosen, error) {
	var c chosen
	for _, p := range publications {
		port := p.First
		if p.First == 0 || p.First != p.Last {
			var err error
			if port, err = c.free(p, snapshot); err != nil {
				c.release()
				return chosen{}, err
			}
		} else if holder, ok := holderOf(p, port, snapshot); ok {
			c.release()
			return chosen{}, cni.ConfigErrorf("--publish: host port %d/%s is taken by container %s of network %s; choose another, or leave it out for a free one",
				port, p.Protocol, holder.Container, holder.Network)
		}
		m := mapping{HostPort: port, ContainerPort: p.Container, Protocol: p.Protocol}
		if p.HostIP.IsValid() {
			m.HostIP = p.HostIP.String()
		}
		c.mappings = append(c.mappings, m)
	}
	return c, nil
}

// free is one of the publication's host ports that no container has, and no process.
func (c *chosen) free(p Publication, snapshot *inventory.Snapshot) (uint16, error) {
	const tries = 100 // the kernel offers a port that no process has, but a container may have it
	first, last := int(p.First), int(p.Last)
	if first == 0 {
		last = tries - 1
	}
	for port := first; port <= last; port++ {
		number := uint16(port)
		if p.First == 0 {
			number = 0
		}
		socket, got, err := hold(p, number)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("choose a host port: %w", err)
		}
		if socket != nil {
			c.held = append(c.held, socket)
		}
		_, taken := holderOf(p, got, snapshot)
		mine := slices.ContainsFunc(c.mappings, func(m mapping) bool { return m.HostPort == got && m.Protocol == p.Protocol })
		if !taken && !mine {
			return got, nil
		}
	}
	if p.First == 0 {
		return 0, fmt.Errorf("choose a host port for %d/%s: none is free", p.Container, p.Protocol)
	}
	return 0, cni.ConfigErrorf("--publish: no host port of %d-%d/%s is free; name others, or leave them out", p.First, p.Last, p.Protocol)
}

// hold opens a socket on the port, so that no other process takes it; for 0 the kernel chooses.
func hold(p Publication, port uint16) (socket interface{ Close() error }, got uint16, err error) {
	host := ""
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	at := net.JoinHostPort(host, strconv.Itoa(int(port)))
	if p.Protocol == "udp" {
		conn, err := net.ListenPacket("udp", at)
		if err != nil {
			return nil, 0, err
		}
		return conn, portOf(conn.LocalAddr()), nil
	}
	listener, err := net.Listen("tcp", at) // for SCTP as well, whose ports are hardly ever in use
	if err != nil {
		return nil, 0, err
	}
	return listener, portOf(listener.Addr()), nil
}

func portOf(a net.Addr) uint16 {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return at.Port()
}

// holderOf is the attachment that has a host port.
func holderOf(p Publication, port uint16, snapshot *inventory.Snapshot) (inventory.Attachment, bool) {
	for _, a := range snapshot.Attachments {
		if a.State == inventory.Dead {
			continue
		}
		for _, other := range a.Ports {
			if other.Protocol == p.Protocol && other.Host.Port() == port && overlap(p.HostIP, other.Host.Addr()) {
				return a, true
			}
		}
	}
	return inventory.Attachment{}, false
}

// published joins the mappings to ranges, for people.
func published(mappings []mapping) []inventory.Published {
	var a inventory.Attachment
	for _, m := range mappings {
		host, err := netip.ParseAddr(m.HostIP)
		if err != nil {
			host = netip.IPv4Unspecified()
		}
		a.Ports = append(a.Ports, inventory.Port{
			Protocol: cmp.Or(strings.ToLower(m.Protocol), "tcp"), Host: netip.AddrPortFrom(host, m.HostPort),
			Container: netip.AddrPortFrom(netip.IPv4Unspecified(), m.ContainerPort),
		})
	}
	return a.Published()
}
