//go:build kubernetes

package kubernetes

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

var switchAddresses = []netip.Addr{lab.SwitchIPv4.Addr(), lab.SwitchIPv6.Addr()}

// TestServicesByIPVS: kube-proxy in mode ipvs, with a real API server that tells it of Services, before containers
// that Trestle attaches and maps ports to. There is no kubelet: the containers are network namespaces, and their
// endpoints are written down, so that a virtual machine which has IPVS, and no KVM, runs it in minutes
// (make test-kubernetes-ipvs).
func TestServicesByIPVS(t *testing.T) {
	if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
		if os.Getenv("TRESTLE_VM") != "" {
			t.Fatal("this kernel was booted for IPVS, and has none")
		}
		t.Skip("this kernel has no IPVS; make test-kubernetes-ipvs boots one that has")
	}
	n := newIPVSNode(t)
	// Pods may start before kube-proxy: then only the list says that iptables is to be used.
	hp, early := n.attach("hp", `"backend": "iptables"`, 80, 8080), n.attach("early", "", 443)
	n.StartProxy("ipvs")
	n.cluster.Until("kube-proxy has its interface", func() error {
		output, err := n.Run(host.Command{Args: []string{"ip", "link", "show", "kube-ipvs0"}})
		if err == nil && output.Code != 0 {
			err = errors.New(output.Stderr)
		}
		return err
	})
	pods := ipvsPods{hp: hp, early: early, web: n.attach("web", ""), client: n.attach("client", "")}
	n.cluster.Apply(service("web", "") + endpoints("web", pods.web) + service("self", "type: NodePort, ") + endpoints("self", hp))
	t.Run("a pod that was there before kube-proxy", func(t *testing.T) { n.testEarly(t, early, pods.client) })
	t.Run("Services beside host ports", func(t *testing.T) { n.askAll(t, n.services(pods), n.servicesOfHP(pods), n.hostPorts(pods)) })
	t.Run("kube-proxy killed and back", func(t *testing.T) {
		n.proxy()
		n.proxy = nil // else what it has made would be cleaned up
		n.StartProxy("ipvs")
		n.askAll(t, n.services(pods), n.servicesOfHP(pods), n.hostPorts(pods))
	})
	t.Run("Services without host ports", func(t *testing.T) {
		n.detach(hp)
		n.detach(early)
		for _, ip := range n.Addresses() {
			for _, port := range []string{"80", "443", "8080"} {
				if answer, err := fromHost(n.cluster.Switch.Namespace)(net.JoinHostPort(ip.String(), port)); err == nil {
					t.Errorf("%s port %s, which is mapped no more: got an answer, %q", ip, port, answer)
				}
			}
		}
		n.askAll(t, n.services(pods))
		n.detach(pods.web)
		n.detach(pods.client)
		n.assertNothingOf(t, hp, early, pods.web, pods.client)
	})
}

// testEarly: what the page says of a port that was mapped without the key, before kube-proxy was there. It is in
// nftables and takes what is for a Service; `trestle doctor` names it, and `trestle restore` moves it.
func (n *ipvsNode) testEarly(t *testing.T, early, client ipvsPod) {
	n.cluster.Until("IPVS has the Services", func() error {
		if known := n.MustRun("cat", "/proc/net/ip_vs"); strings.Count(known, "TCP ") < 5 { // web and self of two families, and the API's
			return errors.New(known)
		}
		return nil
	})
	answer, err := fromHost(client.Namespace)(net.JoinHostPort(n.api().String(), "443"))
	if !strings.HasPrefix(answer, early.ID+" ") {
		t.Errorf("the API's Service: got %q, %v, want an answer of %s, or the page is wrong", answer, err, early.ID)
	}
	output, err := n.Run(host.Command{Args: []string{filepath.Join(n.Dirs().Trestle, "trestle"), "doctor"}})
	if err != nil {
		t.Fatal(err)
	}
	// It is wrapped; one port of each family.
	said := strings.Join(strings.Fields(output.Stdout), " ")
	if want := "kube-proxy works by IPVS, and nftables maps 2 ports on all addresses"; output.Code != 3 || !strings.Contains(said, want) {
		t.Errorf("trestle doctor: got exit status %d, %s%s, want %q", output.Code, output.Stdout, output.Stderr, want)
	}
	t.Log(n.MustRun(filepath.Join(n.Dirs().Trestle, "trestle"), "restore"))
	t.Log(n.MustRun(filepath.Join(n.Dirs().Trestle, "trestle"), "doctor"))
}

// assertNothingOf: neither addresses nor rules of iptables are left of pods.
func (n *ipvsNode) assertNothingOf(t *testing.T, pods ...ipvsPod) {
	t.Helper()
	for _, p := range pods {
		for _, ip := range p.ips {
			if rules := n.natRules(ip); strings.Contains(rules, net.JoinHostPort(ip.String(), containerPort)) {
				t.Errorf("the pods are gone, and a rule leads to %s:\n%s", ip, rules)
			}
		}
	}
	if left := n.MustRun("find", "/var/lib/cni/networks/k8s", "-maxdepth", "1", "-name", "*244*"); left != "" {
		t.Errorf("the pods are gone, and their addresses are not: %s", left)
	}
}

// ipvsNode is a node of an API server that has no kubelet.
type ipvsNode struct {
	*Node
	t *testing.T
}

const ipvsNodeManifest = `
apiVersion: v1
kind: Node
metadata: { name: a }
spec: { podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"] }
status: { addresses: [{ type: InternalIP, address: %s }, { type: InternalIP, address: "%s" }] }
`

func newIPVSNode(t *testing.T) *ipvsNode {
	t.Helper()
	c := NewAPI(t)
	n := &ipvsNode{Node: &Node{Host: c.Host("a"), cluster: c}, t: t}
	// What docs/kubernetes.md asks of a node with kube-proxy.
	n.MustRun("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
	n.InstallNetwork("10-k8s.conflist", block(t, "json", `"name": "k8s"`))
	c.Apply(fmt.Sprintf(ipvsNodeManifest, n.IPv4, n.IPv6))
	t.Log(c.Kubectl("version"))
	t.Log(n.MustRun("uname", "-r"))
	return n
}

// ipvsPod is a container on the page's network.
type ipvsPod struct {
	*host.Container
	network *host.Network
	ips     []netip.Addr
	ports   []map[string]any
}

// ipvsPods: two with host ports, which were there before kube-proxy, and two without.
type ipvsPods struct{ hp, early, web, client ipvsPod }

// containerPort is where each pod serves.
const containerPort = "9000"

// attach makes a pod that serves, with host ports, by the list of docs/kubernetes.md with one more key of portmap's.
func (n *ipvsNode) attach(id, key string, hostPorts ...int) ipvsPod {
	n.t.Helper()
	list := block(n.t, "json", `"name": "k8s"`)
	if key != "" {
		list = strings.Replace(list, `"type": "portmap"`, `"type": "portmap", `+key, 1)
	}
	p := ipvsPod{Container: n.Container(id), network: n.Network(list)}
	for _, port := range hostPorts {
		p.ports = append(p.ports, map[string]any{"hostPort": port, "containerPort": 9000, "protocol": "tcp"})
	}
	result, err := p.network.Add(p.attachment())
	if err != nil {
		n.t.Fatalf("ADD of %s: %v", id, err)
	}
	for _, ip := range result.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		p.ips = append(p.ips, addr.Unmap())
	}
	p.Serve("tcp", ":"+containerPort)
	return p
}

func (n *ipvsNode) detach(p ipvsPod) {
	n.t.Helper()
	if err := p.network.Del(p.attachment()); err != nil {
		n.t.Errorf("DEL of %s: %v", p.ID, err)
	}
}

func (p ipvsPod) attachment() *libcni.RuntimeConf {
	a := p.Attachment()
	if len(p.ports) > 0 {
		a.CapabilityArgs["portMappings"] = p.ports
	}
	return a
}

// service is the manifest of a Service of port 80 whose endpoints are written by hand.
func service(name, more string) string {
	port := "port: 80"
	if more != "" {
		port += ", nodePort: 30080"
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: { name: %s }
spec: { %sipFamilyPolicy: RequireDualStack, ports: [{ %s, targetPort: %s }] }
`, name, more, port, containerPort)
}

func endpoints(service string, p ipvsPod) (manifest string) {
	for _, ip := range p.ips {
		family := "IPv6"
		if ip.Is4() {
			family = "IPv4"
		}
		manifest += fmt.Sprintf(`
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: %[1]s-%[2]s, labels: { kubernetes.io/service-name: %[1]s } }
addressType: %[3]s
endpoints: [{ addresses: ["%[4]s"], nodeName: a, conditions: { ready: true } }]
ports: [{ port: %[5]s, protocol: TCP }]
`, service, strings.ToLower(family), family, ip, containerPort)
	}
	return manifest
}

func (n *ipvsNode) askAll(t *testing.T, kinds ...[]way) {
	t.Helper()
	ways := slices.Concat(kinds...)
	for _, w := range ways {
		w.test(t, n.cluster)
	}
	t.Logf("%d ways", len(ways))
}

// services are the ways to Services that no pod with a host port takes part in. The Services' ports are mapped on the
// host as well, to hp and early.
func (n *ipvsNode) services(pods ipvsPods) (ways []way) {
	n.t.Helper()
	client, nobody := pods.client, netip.Addr{}
	for _, ip := range n.cluster.addressesOf("web") {
		ways = append(ways,
			way{"pod to Service", fromHost(client.Namespace), ip, "80", "web", sameFamily(client.ips, ip)},
			way{"node to Service", fromHost(n.Namespace), ip, "80", "web", nobody},
			way{"pod to itself by its Service", fromHost(pods.web.Namespace), ip, "80", "web", nobody})
	}
	return append(ways,
		way{"pod to the API by its Service", n.cluster.greetAPI(client.Namespace), n.api(), "443", "api", nobody},
		way{"node to the API by its Service", n.cluster.greetAPI(n.Namespace), n.api(), "443", "api", nobody})
}

// servicesOfHP are those that hp takes part in.
func (n *ipvsNode) servicesOfHP(pods ipvsPods) (ways []way) {
	n.t.Helper()
	client, hp, nobody := fromHost(pods.client.Namespace), fromHost(pods.hp.Namespace), netip.Addr{}
	for _, ip := range n.cluster.addressesOf("web") {
		ways = append(ways, way{"pod with that host port to Service", hp, ip, "80", "web", sameFamily(pods.hp.ips, ip)})
	}
	for _, ip := range n.cluster.addressesOf("self") {
		ways = append(ways,
			way{"pod to the Service of one with a host port", client, ip, "80", "hp", sameFamily(pods.client.ips, ip)},
			way{"pod with a host port to itself by its Service", hp, ip, "80", "hp", nobody})
	}
	for _, ip := range n.Addresses() {
		ways = append(ways,
			way{"outside to node port", fromHost(n.cluster.Switch.Namespace), ip, "30080", "hp", nobody},
			way{"node to node port", fromHost(n.Namespace), ip, "30080", "hp", nobody},
			way{"pod to node port", client, ip, "30080", "hp", nobody},
			way{"pod to its own node port", hp, ip, "30080", "hp", nobody})
	}
	return ways
}

// api is the address of the API's own Service.
func (n *ipvsNode) api() netip.Addr {
	n.t.Helper()
	return netip.MustParseAddr(n.cluster.Field("service/kubernetes", ".spec.clusterIP"))
}

// hostPorts are the ways to ports of the host.
func (n *ipvsNode) hostPorts(pods ipvsPods) (ways []way) {
	nobody := netip.Addr{}
	for port, p := range map[string]ipvsPod{"80": pods.hp, "8080": pods.hp, "443": pods.early} {
		for _, ip := range n.Addresses() {
			ways = append(ways,
				way{"outside to host port", fromHost(n.cluster.Switch.Namespace), ip, port, p.ID, sameFamily(switchAddresses, ip)},
				way{"node to its host port", fromHost(n.Namespace), ip, port, p.ID, nobody},
				way{"pod to host port", fromHost(pods.client.Namespace), ip, port, p.ID, nobody},
				way{"pod to its own host port", fromHost(p.Namespace), ip, port, p.ID, nobody})
		}
		ways = append(ways, way{"node to 127.0.0.1", fromHost(n.Namespace), netip.MustParseAddr("127.0.0.1"), port, p.ID, nobody})
	}
	return ways
}

// greetAPI asks the API server for its certificate, which is the answer "api".
func (c *Cluster) greetAPI(from *host.Namespace) func(string) (string, error) {
	roots := x509.NewCertPool()
	roots.AddCert(c.pki.ca)
	return func(target string) (answer string, err error) {
		err = from.Do(func() error {
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: dialPatience}, "tcp", target, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
			if err != nil {
				return err
			}
			answer = "api " + conn.LocalAddr().String()
			return conn.Close()
		})
		return answer, err
	}
}

// natRules are those of iptables for the family of an address.
func (n *ipvsNode) natRules(of netip.Addr) string {
	n.t.Helper()
	program := "ip6tables-save"
	if of.Is4() {
		program = "iptables-save"
	}
	return n.MustRun(program, "-t", "nat")
}
