package hosts

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slowly is a way to etcd on which everything takes a while, there and not back.
type slowly struct {
	*network
	delay       time.Duration
	connections atomic.Int64
	chunks      atomic.Int64 // of what hosts have said
}

// between listens on the switch's own address, and gives the URL.
func (n *network) between(t *testing.T, delay time.Duration) (*slowly, string) {
	t.Helper()
	const address = "203.0.113.1:2479"
	s := &slowly{network: n, delay: delay}
	var listener net.Listener
	err := n.Switch.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // which ends accept
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			go s.serve(conn)
		}
	}()
	return s, "http://" + address
}

func (s *slowly) serve(from net.Conn) {
	var to net.Conn
	err := s.Switch.Do(func() (err error) {
		to, err = net.DialTimeout("tcp", strings.TrimPrefix(s.etcd.URLs()[0], "http://"), time.Second)
		return err
	})
	if err != nil {
		_ = from.Close() // as etcd would have refused it
		return
	}
	go func() {
		_, _ = io.Copy(from, to) // until one of them ends
		_ = from.Close()
	}()
	s.pass(from, to)
	_ = to.Close()
}

// pass hands on what comes, each piece after the delay.
func (s *slowly) pass(from, to net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	}()
	defer close(pieces)
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			s.chunks.Add(1)
			pieces <- piece{append([]byte(nil), buffer[:n]...), time.Now().Add(s.delay)}
		}
		if err != nil {
			return
		}
	}
}

// TestSlowEtcd (row 14): with an etcd that takes a second and a half for each answer a host joins, and
// follows; with one that stands still nothing is removed, and it is asked as often as a
// patient host would. `make soak-hosts` has it stand still for 40 s.
func TestSlowEtcd(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "b")
	way, url := n.between(t, 1500*time.Millisecond)
	settings := n.etcd.Settings("a")
	settings["etcd"] = map[string]any{"endpoints": []string{url}}
	settings["timeout"], settings["alive"] = "10s", "30s"
	a := n.Agent(n.Host("a"), settings)
	n.Ready(a.Host, 1)
	n.Reach(n.Attach(a.Host, "at-a"), n.containers[0])
	c := n.Agent(n.Host("c"), n.etcd.Settings("c"))
	n.Ready(c.Host, 2)
	n.Ready(a.Host, 2)
	before := routes(a.Host)

	n.etcd.Members[0].Signal("STOP")
	n.Await(a.Host, "disconnected", disconnected)
	began, connections, chunks := time.Now(), way.connections.Load(), way.chunks.Load()
	n.looks(a, 5)
	if got := routes(a.Host); got != before {
		t.Errorf("etcd stands still: got routes\n%s\nwant\n%s", got, before)
	}
	// five looks are ten seconds, and more on a busy machine, a try each one to five
	tries, said := way.connections.Load()-connections, way.chunks.Load()-chunks
	if tens := max(1, int64(time.Since(began)/(10*time.Second))); tries > 30*tens || said > 300*tens {
		t.Errorf("etcd stands still: got %d connections and %d messages, want a few", tries, said)
	}
	n.etcd.Members[0].Signal("CONT")
	s := n.Ready(a.Host, 2)
	if s.Repairs != 0 || len(s.Lost) > 0 {
		t.Errorf("got %+v, want nothing lost and nothing repaired", s)
	}
	if got := strings.Count(a.Kill(), "\n"); got > 40 {
		t.Errorf("got %d lines of log, want a few", got)
	}
}
