package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// An answer that is expected may take long on a busy machine. One that is not costs each test
// of what must not get through the time that it is waited for.
var (
	expectedTime   = map[bool]time.Duration{false: 30 * time.Second, true: 90 * time.Second}[inVM]
	unexpectedTime = map[bool]time.Duration{false: 5 * time.Second, true: 10 * time.Second}[inVM]
)

// Expecting is the same namespace for a test that expects Ping and Request to be answered, as
// where nothing is said, or not to be.
func (n *Namespace) Expecting(answer bool) *Namespace {
	if answer {
		return n
	}
	return n.Briefly()
}

// Briefly is the same namespace, whose Ping and Request wait a short time for an answer: none is
// expected, or it is asked again.
func (n *Namespace) Briefly() *Namespace {
	other := *n
	other.brief = true
	return &other
}

// answerTime bounds one request: far more than any takes.
func (n *Namespace) answerTime() time.Duration {
	if n.brief {
		return unexpectedTime
	}
	return expectedTime
}

func (n *Namespace) pingOnce(address netip.Addr) (Output, error) {
	return n.Run(Command{Args: []string{"ping", "-n", "-c1", "-W" + strconv.Itoa(int(n.answerTime().Seconds())), address.String()}})
}

// Ping asks address once and says why there was no answer.
func (n *Namespace) Ping(address netip.Addr) error {
	output, err := n.pingOnce(address)
	if err == nil && output.Code != 0 {
		err = fmt.Errorf("ping %s from %s: %s", address, n.Name, strings.TrimSpace(output.Stdout+output.Stderr))
	}
	return err
}

var roundTrip = regexp.MustCompile(`time=([0-9.]+) ms`)

// PingAtOnce is Ping, and an answer that took a second is an error: by then the kernel
// asked for its neighbour again, or sent to where nobody is. The time is that between
// two packets, so that a slow machine does not count.
func (n *Namespace) PingAtOnce(address netip.Addr) error {
	output, err := n.pingOnce(address)
	if err != nil {
		return err
	}
	match := roundTrip.FindStringSubmatch(output.Stdout)
	if output.Code != 0 || match == nil {
		return fmt.Errorf("ping %s from %s: %s", address, n.Name, strings.TrimSpace(output.Stdout+output.Stderr))
	}
	if took, err := strconv.ParseFloat(match[1], 64); err != nil || took >= 1000 {
		return fmt.Errorf("ping %s from %s: answered after %s ms", address, n.Name, match[1])
	}
	return nil
}

// Serve answers, until the test ends, each request to address ("tcp" or "udp";
// ":80", "10.1.0.2:80" or "[fd00::2]:80") with the name of the namespace and the
// source address that it saw.
func (n *Namespace) Serve(network, address string) {
	n.t.Helper()
	var server io.Closer
	err := n.Do(func() (err error) {
		if strings.HasPrefix(network, "udp") {
			server, err = n.serveUDP(network, address)
		} else {
			server, err = n.serveTCP(network, address)
		}
		return err
	})
	if err != nil {
		n.t.Fatalf("serve %s %s in %s: %v", network, address, n.Name, err)
	}
	n.t.Cleanup(func() { _ = server.Close() }) // its goroutine ends by this
}

func (n *Namespace) serveTCP(network, address string) (io.Closer, error) {
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			_, _ = fmt.Fprintln(conn, n.Name, conn.RemoteAddr()) // the client sees what is missing
			_ = conn.Close()                                     // likewise
		}
	}()
	return listener, nil
}

func (n *Namespace) serveUDP(network, address string) (io.Closer, error) {
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	go func() {
		buffer := make([]byte, 16)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteTo(fmt.Appendln(nil, n.Name, from), from) // the client sees what is missing
			}
		}
	}()
	return conn, nil
}

// Reply is what a server made by Serve answered.
type Reply struct {
	Server string         // the name of the namespace that it is in
	Seen   netip.AddrPort // the client's address as the server saw it
}

// Request asks a server made by Serve, once.
func (n *Namespace) Request(network, address string) (Reply, error) {
	return n.RequestFrom(network, "", address)
}

// RequestFrom is Request from a certain local address ("127.0.0.1:0").
func (n *Namespace) RequestFrom(network, local, address string) (Reply, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		dialer := net.Dialer{Timeout: n.answerTime()}
		if local != "" {
			if dialer.LocalAddr, err = resolve(network, local); err != nil {
				return err
			}
		}
		conn, err = dialer.Dial(network, address)
		return err
	})
	if err != nil {
		return Reply{}, fmt.Errorf("request from %s: %w", n.Name, err)
	}
	defer func() { _ = conn.Close() }() // the answer is read or was not to be had
	reply, err := ask(conn, network, n.answerTime())
	if err != nil {
		return reply, fmt.Errorf("request from %s to %s %s: %w", n.Name, network, address, err)
	}
	return reply, nil
}

func resolve(network, address string) (net.Addr, error) {
	if strings.HasPrefix(network, "udp") {
		return net.ResolveUDPAddr(network, address)
	}
	return net.ResolveTCPAddr(network, address)
}

func ask(conn net.Conn, network string, answerTime time.Duration) (Reply, error) {
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return Reply{}, err
	}
	if strings.HasPrefix(network, "udp") {
		if _, err := conn.Write([]byte("?")); err != nil {
			return Reply{}, err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return Reply{}, err
	}
	name, seen, _ := strings.Cut(strings.TrimSpace(line), " ")
	address, err := netip.ParseAddrPort(seen)
	return Reply{Server: name, Seen: netip.AddrPortFrom(address.Addr().Unmap(), address.Port())}, err
}
