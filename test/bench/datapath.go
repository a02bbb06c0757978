package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// dataPath is what packets meet on their way: by TCP, where the other end is a goroutine, and
// by iperf3 where the host has it.
func dataPath(t host.T, s size) []measure.Section {
	ours := network{masq: true, ports: 1, oneExec: true}
	operations := []string{"TCP", "round trip", "connections"}
	units := []measure.Unit{measure.Rate("Gbit/s", gigabits(s.stream)), measure.Microseconds, measure.Rate("1/s", 1)}
	if hasIPerf() {
		operations = append(operations, "iperf3, TCP", "iperf3, UDP of 64 bytes")
		units = append(units, measure.Rate("Gbit/s", gigabits(s.stream)), measure.Rate("1000/s", float64(s.packets)/1000))
	}
	section := func(title string, way way, others ...func() measure.Variant) measure.Section {
		f := flow{way: way, bytes: s.stream, packets: s.packets}
		makers := append([]func() measure.Variant{variant("trestle", func() round { return flowing(t, ours, f) })}, others...)
		for _, backend := range backends {
			peer := network{masq: true, ports: 1, backend: backend, reference: true}
			makers = append(makers, variant("reference, "+backend, func() round { return flowing(t, peer, f) }))
		}
		ptp := network{masq: true, ports: 1, backend: "nftables", reference: true, ptp: true}
		makers = append(makers, variant("reference, ptp, nftables", func() round { return flowing(t, ptp, f) }))
		return measure.Section{Title: title, Operations: operations, Units: units, Rounds: 7, Setup: variants(makers)}
	}
	mapped := func(way way) func() measure.Variant {
		return variant(fmt.Sprintf("trestle beside %d mappings", s.mappings), func() round {
			return flowing(t, ours, flow{way: way, bytes: s.stream, packets: s.packets, mappings: s.mappings})
		})
	}
	return []measure.Section{
		section("Between two containers", toNeighbour),
		section("From a container to the world", toWorld, mapped(toWorld)),
		section("From the world to a mapped port", toPort, mapped(toPort)),
		bigTCP(t, s),
	}
}

func gigabits(bytes int) float64 { return float64(bytes) * 8 / 1e9 }

// way is who asks whom.
type way int

const (
	toNeighbour way = iota
	toWorld
	toPort
)

// roundTrips and connections are so many that the clock does not matter.
const (
	roundTrips  = 2000
	connections = 500
)

// flow is so many bytes, and packets, on their way, on a host that has so many port mappings.
type flow struct {
	way                      way
	bytes, packets, mappings int
	// prepare changes the host's links, and those of the containers, before packets flow.
	prepare func(h *host.Host, containers ...*host.Container) error
	// only the stream is measured.
	streamAlone bool
}

// flowing is a round of so many bytes, round trips and connections, of which one takes as
// long as is said, and of iperf3's.
func flowing(t host.T, n network, f flow) round {
	h := host.New(t)
	list, _ := n.on(t, h)
	first, second := h.Container("first"), h.Container("second")
	var addresses []string
	for i, c := range []*host.Container{first, second} {
		a := c.Attachment()
		a.CapabilityArgs["portMappings"] = []map[string]any{
			{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"},
			{"hostPort": iperfPort + 1 + i, "containerPort": iperfPort, "protocol": "tcp"},
			{"hostPort": iperfPort + 1 + i, "containerPort": iperfPort, "protocol": "udp"},
		}
		result, err := list.Add(a)
		if err != nil {
			t.Fatalf("%s: %v", n.list(), err)
		}
		addresses = append(addresses, result.IPs[0].Address.IP.String())
	}
	if err := h.Do(func() error { return mapPorts(f.mappings) }); err != nil {
		t.Fatalf("map %d ports: %v", f.mappings, err)
	}
	if f.prepare != nil {
		if err := f.prepare(h, first, second); err != nil {
			t.Fatalf("%v", err)
		}
	}
	from, server, to := first.Namespace, second.Namespace, netip.AddrPortFrom(netip.MustParseAddr(addresses[1]), 80)
	iperf := netip.AddrPortFrom(to.Addr(), iperfPort)
	switch f.way {
	case toWorld:
		server, to, iperf = h.Outside, netip.AddrPortFrom(host.OutsideIPv4.Addr(), 80), netip.AddrPortFrom(host.OutsideIPv4.Addr(), iperfPort)
	case toPort:
		from, server = h.Outside, first.Namespace
		to, iperf = netip.AddrPortFrom(host.HostIPv4.Addr(), 8080), netip.AddrPortFrom(host.HostIPv4.Addr(), iperfPort+1)
	case toNeighbour:
	}
	listen(t, server)
	if hasIPerf() && !f.streamAlone {
		server.Start(host.Command{Args: []string{"iperf3", "-s", "-p", fmt.Sprint(iperfPort)}})
	}
	return func() ([]time.Duration, error) { return f.round(from, to, iperf) }
}

func (f flow) round(from *host.Namespace, to, iperf netip.AddrPort) (took []time.Duration, err error) {
	err = from.Do(func() (err error) {
		if f.streamAlone {
			stream, err := asking(to.String(), 's', func(c net.Conn) error { return pour(c, f.bytes) })
			took = []time.Duration{stream}
			return err
		}
		took, err = ask(to.String(), f.bytes)
		return err
	})
	if err != nil || f.streamAlone || !hasIPerf() {
		return took, err
	}
	for _, args := range [][]string{{"-n", fmt.Sprint(f.bytes)}, {"-u", "-b", "0", "-l", "64", "-k", fmt.Sprint(f.packets)}} {
		one, err := iperf3(from, iperf, args...)
		if err != nil {
			return nil, err
		}
		took = append(took, one)
	}
	return took, nil
}

func ask(to string, bytes int) ([]time.Duration, error) {
	stream, err := asking(to, 's', func(c net.Conn) error { return pour(c, bytes) })
	if err != nil {
		return nil, err
	}
	trips, err := asking(to, 'p', pingPong)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for range connections {
		if _, err := asking(to, 'c', func(net.Conn) error { return nil }); err != nil {
			return nil, err
		}
	}
	return []time.Duration{stream, trips / roundTrips, time.Since(began) / connections}, nil
}

// listen serves: the first byte says what the client wants.
func listen(t host.T, n *host.Namespace) {
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":80")
		return err
	})
	if err != nil {
		t.Fatalf("listen in %s: %v", n.Name, err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // its goroutine ends by this
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go serve(conn)
		}
	}()
}

func serve(conn net.Conn) {
	defer func() { _ = conn.Close() }() // the client sees what is missing
	kind := make([]byte, 1)
	if _, err := io.ReadFull(conn, kind); err != nil {
		return
	}
	switch kind[0] {
	case 's':
		_, _ = io.Copy(io.Discard, conn) // until the client has sent all
		_, _ = conn.Write(kind)          // the client waits for it
	case 'p':
		_, _ = io.Copy(conn, conn) // until the client goes
	default:
		_, _ = conn.Write(kind) // the client waits for it
	}
}

// asking times what is done on a connection, its first byte and its end but not its making.
func asking(to string, kind byte, do func(net.Conn) error) (took time.Duration, err error) {
	conn, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // all was read
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := conn.Write([]byte{kind}); err != nil {
		return 0, err
	}
	if err := do(conn); err != nil {
		return 0, err
	}
	if kind != 'p' {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// pour sends so many bytes.
func pour(conn net.Conn, bytes int) error {
	block := make([]byte, 1<<20)
	for sent := 0; sent < bytes; sent += len(block) {
		if _, err := conn.Write(block); err != nil {
			return err
		}
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.New("no TCP connection")
	}
	return tcp.CloseWrite()
}

func pingPong(conn net.Conn) error {
	buffer := make([]byte, 64)
	for range roundTrips {
		if _, err := conn.Write(buffer); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, buffer); err != nil {
			return err
		}
	}
	return nil
}
