package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/trestle-cni/trestle/test/host"
)

// Etcd is an etcd of one member or three on the switch's host.
type Etcd struct {
	*Lab
	Members []*Member
}

// Member is one process of it.
type Member struct {
	Name string
	URL  string // for clients
	args []string
	stop func() string
	on   *host.Host
}

// Etcd starts so many members, each with an address of its own on the switch.
func (l *Lab) Etcd(members int, more ...string) *Etcd {
	l.Helper()
	e := &Etcd{Lab: l}
	var peers []string
	for i := range members {
		peers = append(peers, fmt.Sprintf("m%d=http://203.0.113.%d:2380", i, 2+i))
	}
	for i := range members {
		address := fmt.Sprintf("203.0.113.%d", 2+i)
		l.Switch.MustRun("ip", "address", "add", address+"/24", "dev", Bridge)
		m := &Member{Name: fmt.Sprintf("m%d", i), URL: "http://" + address + ":2379", on: l.Switch}
		m.args = append([]string{
			"etcd", "--name", m.Name, "--data-dir", "/var/lib/etcd-test/" + m.Name, "--logger", "zap", "--log-level", "error",
			"--listen-client-urls", m.URL, "--advertise-client-urls", m.URL,
			"--listen-peer-urls", "http://" + address + ":2380", "--initial-advertise-peer-urls", "http://" + address + ":2380",
			"--initial-cluster", strings.Join(peers, ","), "--heartbeat-interval", "100", "--election-timeout", "1000",
			"--unsafe-no-fsync",
		}, more...)
		m.args = supported(l.Switch, m.args)
		l.Switch.MustRun("mkdir", "-p", "/var/lib/etcd-test")
		e.Members = append(e.Members, m)
		m.Start()
	}
	l.Eventually("etcd answers", func() error { return e.Ctl("endpoint", "health") })
	return e
}

// supported leaves out what the etcd at hand does not know: 3.4 always synchronises.
func supported(h *host.Host, args []string) []string {
	output, err := h.Run(host.Command{Args: []string{"etcd", "--help"}})
	if err == nil && !strings.Contains(output.Stdout+output.Stderr, "unsafe-no-fsync") {
		var kept []string
		for _, a := range args {
			if a != "--unsafe-no-fsync" {
				kept = append(kept, a)
			}
		}
		return kept
	}
	return args
}

// Start starts the member, again where it was stopped.
func (m *Member) Start() { m.stop = m.on.Start(host.Command{Args: m.args}) }

// Kill kills the member.
func (m *Member) Kill() string { return m.stop() }

// Signal sends a signal to the member's process.
func (m *Member) Signal(signal string) {
	m.on.MustRun("sh", "-c", fmt.Sprintf("for p in /proc/[0-9]*; do if tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^etcd --name %s '; then kill -%s ${p#/proc/}; fi; done", m.Name, signal))
}

// URLs are those of all members.
func (e *Etcd) URLs() []string {
	var urls []string
	for _, m := range e.Members {
		urls = append(urls, m.URL)
	}
	return urls
}

// Client connects to it, until the end of the test.
func (e *Etcd) Client() *clientv3.Client {
	e.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: e.URLs(), DialTimeout: Patience, Logger: zap.NewNop(),
		// The library dials from goroutines of its own, which are in no namespace of ours.
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(_ context.Context, address string) (conn net.Conn, err error) {
			err = e.Switch.Do(func() (err error) {
				conn, err = net.DialTimeout("tcp", strings.TrimPrefix(address, "http://"), Patience)
				return err
			})
			return conn, err
		})},
	})
	if err != nil {
		e.Fatalf("connect to etcd: %v", err)
	}
	e.Cleanup(func() { _ = client.Close() }) // nothing is under way
	return client
}

// Metric is one of those that the first member counts, by its name and the beginning of
// its labels; 0 where there is none yet.
func (e *Etcd) Metric(name string) int {
	e.Helper()
	var total int
	err := e.Switch.Do(func() error {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(e.URLs()[0], "http://"), Patience)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // all is read
		if _, err := conn.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n")); err != nil {
			return err
		}
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			if line := lines.Text(); strings.HasPrefix(line, name) {
				total, err = strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
				return err
			}
		}
		return lines.Err()
	})
	if err != nil {
		e.Fatalf("etcd's metrics: %v", err)
	}
	return total
}

// What etcd is asked, as it counts: transactions, signs of life, and answers to who watches.
const (
	Transactions = `grpc_server_started_total{grpc_method="Txn"`
	KeepAlives   = `grpc_server_msg_received_total{grpc_method="LeaseKeepAlive"`
	Told         = `grpc_server_msg_sent_total{grpc_method="Watch"`
)

// Ctl runs etcdctl, which must be the version's that Debian has or newer.
func (e *Etcd) Ctl(args ...string) error {
	_, err := e.Out(args...)
	return err
}

// Out is Ctl, with what it printed.
func (e *Etcd) Out(args ...string) (string, error) {
	output, err := e.Switch.Run(host.Command{
		Args: append([]string{"etcdctl", "--endpoints", strings.Join(e.URLs(), ","), "--command-timeout", "30s"}, args...),
		Env:  []string{"ETCDCTL_API=3"},
	})
	if err == nil && output.Code != 0 {
		err = fmt.Errorf("etcdctl %s: %s%s", strings.Join(args, " "), output.Stdout, output.Stderr)
	}
	return output.Stdout, err
}
