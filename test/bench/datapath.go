package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// dataPath is what packets meet on their way, by TCP, where the other end is a goroutine.
func dataPath(t host.T, s size) []measure.Section {
	ours := network{masq: true, ports: 1, oneExec: true}
	peer := network{masq: true, ports: 1, backend: "nftables", reference: true}
	legacy := network{masq: true, ports: 1, backend: "iptables", reference: true}
	operations := []string{fmt.Sprintf("%d MiB", s.stream>>20), "round trip", "connection"}
	section := func(title string, way way, mappings bool) measure.Section {
		makers := []func() measure.Variant{
			variant("trestle", func() round { return flowing(t, ours, flow{way, s.stream, 0}) }),
			variant("reference, nftables", func() round { return flowing(t, peer, flow{way, s.stream, 0}) }),
			variant("reference, iptables", func() round { return flowing(t, legacy, flow{way, s.stream, 0}) }),
		}
		if mappings {
			makers = slices.Insert(makers, 1, variant(fmt.Sprintf("trestle beside %d mappings", s.mappings), func() round { return flowing(t, ours, flow{way, s.stream, s.mappings}) }))
		}
		return measure.Section{Title: title, Operations: operations, Rounds: 7, Setup: variants(makers)}
	}
	return []measure.Section{
		section("Between two containers", toNeighbour, false),
		section("From a container to the world", toWorld, true),
		section("From the world to a mapped port", toPort, true),
	}
}

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

// flow is so many bytes on their way, on a host that has so many port mappings.
type flow struct {
	way             way
	bytes, mappings int
}

// flowing is a round of so many bytes, round trips and connections; of the latter two
// one takes as long as is said.
func flowing(t host.T, n network, f flow) round {
	h := host.New(t)
	list := h.Network(n.list())
	if n.reference {
		list.Path = []string{h.Dirs().Reference}
	}
	first, second := h.Container("first"), h.Container("second")
	var addresses []string
	for i, c := range []*host.Container{first, second} {
		a := c.Attachment()
		a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"}}
		result, err := list.Add(a)
		if err != nil {
			t.Fatalf("%s: %v", n.list(), err)
		}
		addresses = append(addresses, result.IPs[0].Address.IP.String())
	}
	if err := h.Do(func() error { return mapPorts(f.mappings) }); err != nil {
		t.Fatalf("map %d ports: %v", f.mappings, err)
	}
	from, server, to := first.Namespace, second.Namespace, addresses[1]+":80"
	switch f.way {
	case toWorld:
		server, to = h.Outside, host.OutsideIPv4.Addr().String()+":80"
	case toPort:
		from, server, to = h.Outside, first.Namespace, host.HostIPv4.Addr().String()+":8080"
	case toNeighbour:
	}
	listen(t, server)
	return func() ([]time.Duration, error) {
		var took []time.Duration
		err := from.Do(func() (err error) {
			took, err = ask(to, f.bytes)
			return err
		})
		return took, err
	}
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
