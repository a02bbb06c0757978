package hosts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	PEM  string
	next int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, key: newKey(t), next: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair is a certificate and its key, for a server at the address and for a client.
func (a *authority) pair(name, address string, life time.Duration) (cert, key string) {
	a.next++
	private := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.ParseIP(address)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
}

// TestTLS (row 16): https with a client's certificate. A certificate that another authority
// signed is refused on either side, routes stay, and a new one needs no restart. Who joins with
// such a one, or where no etcd is, is told so, and nothing is written.
func TestTLS(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	ca, other := newAuthority(t), newAuthority(t)
	const dir, address = "/var/lib/etcd-test", "203.0.113.1"
	write := func(path, text string) {
		if out, err := l.Switch.Run(host.Command{Args: []string{"sh", "-c", "mkdir -p " + dir + "; cat >" + path}, Stdin: text}); err != nil || out.Code != 0 {
			t.Fatal(out, err)
		}
	}
	cert, key := ca.pair("server", address, time.Hour)
	write(dir+"/ca", ca.PEM)
	write(dir+"/cert", cert)
	write(dir+"/key", key)
	url := "https://" + address + ":2379"
	l.Switch.Start(host.Command{Args: []string{
		"etcd", "--data-dir", dir + "/data", "--listen-client-urls", url, "--advertise-client-urls", url, "--log-level", "error", "--logger", "zap",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--cert-file", dir + "/cert", "--key-file", dir + "/key", "--trusted-ca-file", dir + "/ca", "--client-cert-auth",
	}})
	settings := func(name string) lab.Settings {
		return lab.Settings{"name": name, "heartbeat": "1s", "audit": "2s", "timeout": "2s", "alive": "3s", "etcd": map[string]any{
			"endpoints": []string{url}, "ca": "/etc/trestle/ca", "cert": "/etc/trestle/cert", "key": "/etc/trestle/key",
		}}
	}
	equip := func(h *lab.Host, by *authority) {
		cert, key := by.pair(h.Name, "127.0.0.1", time.Hour)
		h.Write("/etc/trestle/ca", ca.PEM)
		h.Write("/etc/trestle/cert", cert)
		h.Write("/etc/trestle/key", key)
	}
	a, b := l.Host("a"), l.Host("b")
	equip(a, ca)
	equip(b, ca)
	flags := []string{"--etcd", url, "--ca", "/etc/trestle/ca", "--cert", "/etc/trestle/cert", "--key", "/etc/trestle/key"}
	l.Eventually("init", func() error {
		if out := a.Node(append([]string{"cluster", "init", "--pool", "10.40.0.0/16"}, flags...)...); out.Code != 0 {
			return fmt.Errorf("%v", out)
		}
		return nil
	})
	if out := a.Node("cluster", "nodes", "--etcd", url); out.Code == 0 || !strings.Contains(out.Stderr, "certificate") {
		t.Errorf("without the authority: got %v, want the certificate named", out)
	}
	j := l.Host("j")
	equip(j, other)
	for want, at := range map[string]string{"certificate": url, "connection refused": "https://" + address + ":2999"} {
		flags[1] = at
		out := j.Node(append([]string{"node", "join", "--name", "j"}, flags...)...)
		if out.Code == 0 || !strings.Contains(out.Stderr, want) || !strings.Contains(out.Stderr, at) {
			t.Errorf("join: got %v, want %q", out, want)
		}
		if got := j.MustRun("sh", "-c", "ls /etc/trestle/node.json /etc/cni/net.d /var/lib/trestle/node 2>/dev/null; ip route show proto 116; true"); got != "" {
			t.Errorf("join was refused (%s), and there is\n%s", want, got)
		}
	}
	agentA, agentB := l.Agent(a, settings("a")), l.Agent(b, settings("b"))
	l.Ready(a, 1)
	l.Ready(b, 1)
	before := routes(b)
	agentB.Kill()
	equip(b, other) // revoked, as it were
	agentB.Start()
	l.Await(b, "refused", func(s lab.Status) bool { return strings.Contains(s.Store.Error, "certificate") && len(s.Peers) == 1 })
	if got := routes(b); got != before {
		t.Errorf("refused: got routes\n%s\nwant\n%s", got, before)
	}
	equip(b, ca) // rotated, without a restart
	l.Ready(b, 1)
	_ = agentA
}

// TestUsers (row 16): etcd's users with the role that docs/hosts.md grants a host. It may
// do what a host does, and not change the configuration; with the role revoked
// routes stay, and the error names the user.
func TestUsers(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	n := &network{Lab: l, etcd: l.Etcd(1)}
	n.init(t, lab.Config)
	p := "/trestle/v1/default/"
	commands := [][]string{{"user", "add", "root:secret"}, {"user", "grant-role", "root", "root"}, {"role", "add", "node"}, {"role", "grant-permission", "node", "read", p + "config"}}
	for _, rw := range []string{"claims/", "nodes/", "names/", "alive/", "released/", "frozen"} {
		commands = append(commands, []string{"role", "grant-permission", "node", "readwrite", "--prefix", p + rw})
	}
	commands = append(commands, []string{"user", "add", "host:pass"}, []string{"user", "grant-role", "host", "node"}, []string{"auth", "enable"})
	for _, c := range commands {
		if err := n.etcd.Ctl(c...); err != nil {
			t.Fatal(err)
		}
	}
	settings := n.etcd.Settings("a")
	settings["etcd"] = map[string]any{"endpoints": n.etcd.URLs(), "user": "host", "passwordFile": "/etc/trestle/password"}
	a := l.Host("a")
	a.Write("/etc/trestle/password", "pass\n")
	a.MustRun("chmod", "644", "/etc/trestle/password")
	agent := l.Agent(a, settings)
	l.Await(a, "the password lies open", func(s lab.Status) bool { return strings.Contains(s.Store.Error, "chmod 600") })
	a.MustRun("chmod", "600", "/etc/trestle/password")
	l.Ready(a, 0)
	if out := a.Node("cluster", "config", "set", "/dev/null"); out.Code == 0 {
		t.Errorf("set an empty configuration: got %v", out)
	}
	a.Write("/run/config", lab.Config)
	if out := a.Node("cluster", "config", "set", "/run/config"); out.Code == 0 || !strings.Contains(out.Stderr, "user host may not do that") {
		t.Errorf("set the configuration as a host: got %v, want the user named", out)
	}
	before := routes(a)
	if err := n.etcd.Ctl("--user", "root:secret", "user", "revoke-role", "host", "node"); err != nil {
		t.Fatal(err)
	}
	l.Await(a, "revoked", func(s lab.Status) bool { return strings.Contains(s.Store.Error, "user host may not do that") })
	if got := routes(a); got != before || got == "" {
		t.Errorf("revoked: got routes\n%s\nwant\n%s", got, before)
	}
	if err := n.etcd.Ctl("--user", "root:secret", "user", "grant-role", "host", "node"); err != nil {
		t.Fatal(err)
	}
	l.Ready(a, 0)
	agent.Kill()
}

// TestThreeMembers (row 13): a leader that is killed keeps nobody from joining; without
// a quorum everything stays, and with it back a host joins.
func TestThreeMembers(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 3, "a", "b")
	pings := n.Pings(n.containers[0], n.containers[1].Addresses[0])
	leader := n.leader(t)
	n.etcd.Members[leader].Kill()
	c := n.Agent(n.Host("c"), n.etcd.Settings("c"))
	n.Ready(c.Host, 2)
	for _, h := range n.hosts {
		n.Ready(h.Host, 2)
	}
	second := (leader + 1) % 3
	n.etcd.Members[second].Kill() // one of three is no quorum
	for _, h := range n.hosts {
		n.Await(h.Host, "disconnected", disconnected)
	}
	d := n.Agent(n.Host("d"), n.etcd.Settings("d"))
	n.Await(d.Host, "waits", func(s lab.Status) bool { return s.State == "starting" && s.Store.Error != "" })
	if lists := d.MustRun("sh", "-c", "ls /etc/cni/net.d 2>/dev/null; true"); lists != "" {
		t.Errorf("d waits, and its runtime has %s", lists)
	}
	n.etcd.Members[second].Start()
	n.Ready(d.Host, 3)
	for _, h := range n.hosts {
		n.Ready(h.Host, 3)
	}
	noneLost(t, "leader and quorum are lost", pings)
}

func (n *network) leader(t *testing.T) (leader int) {
	t.Helper()
	n.Eventually("there is a leader", func() error { // which a busy machine elects anew now and then
		for i, m := range n.etcd.Members {
			out, err := n.etcd.Switch.Run(host.Command{Args: []string{"etcdctl", "--endpoints", m.URL, "endpoint", "status", "-w", "fields"}, Env: []string{"ETCDCTL_API=3"}})
			if err != nil {
				return err
			}
			fields := map[string]string{}
			for line := range strings.Lines(out.Stdout) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), " : ")
				fields[strings.Trim(name, `"`)] = value
			}
			if leader = i; fields["MemberID"] != "" && fields["MemberID"] == fields["Leader"] {
				return nil
			}
		}
		return errors.New("none of them says that it leads")
	})
	return leader
}
