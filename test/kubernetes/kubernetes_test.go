//go:build kubernetes

package kubernetes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// manifest is a block of YAML of docs/kubernetes.md, with the image that nodes have.
func manifest(t *testing.T, with string) string {
	t.Helper()
	return strings.ReplaceAll(block(t, "yaml", with), "REGISTRY/trestle:VERSION", AgentImage)
}

// block is the first of a language in docs/kubernetes.md that has these words.
func block(t *testing.T, language, with string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(page), "```"+language+"\n")[1:] {
		block, _, _ = strings.Cut(block, "```\n")
		if strings.Contains(block, with) {
			return block
		}
	}
	t.Fatalf("docs/kubernetes.md has no block of %s with %q", language, with)
	return ""
}

// proxyModes are kube-proxy's. ipvs needs a kernel with IPVS; since Kubernetes 1.35 it is on its way out.
func proxyModes() []string {
	modes := []string{"iptables", "nftables"}
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		modes = append(modes, "ipvs")
	}
	return modes
}

// TestKubernetes is the life of a cluster of two nodes and then three. Its parts follow
// each other; each leaves what it found.
func TestKubernetes(t *testing.T) {
	c := New(t)
	a := c.Node("a", "iptables")
	b := c.Node("b", "iptables")
	c.Apply(manifest(t, "/trestle/trestle-node"))
	for _, n := range c.Nodes {
		c.ready(n)
	}
	c.RolledOut("daemonset/trestle-node", "--namespace=kube-system")
	t.Log(c.Kubectl("version"))
	t.Log(c.Kubectl("get", "nodes", "-o", "wide"))
	c.Apply(fmt.Sprintf(web, Image))
	c.RolledOut("deployment/web")
	t.Log(c.Kubectl("get", "pods", "-A", "-o", "wide"))
	for _, mode := range proxyModes() {
		if mode != "iptables" {
			a.StartProxy(mode)
			b.StartProxy(mode)
		}
		t.Run("traffic with kube-proxy in mode "+mode, func(t *testing.T) { testTraffic(t, c) })
	}
	if !slices.Contains(proxyModes(), "ipvs") {
		t.Log("kube-proxy in mode ipvs was not run: this kernel has no IPVS")
	}
	for _, part := range []struct {
		name string
		test func(*testing.T, *Cluster)
	}{
		{"an agent writes its own Node alone", testOwnNode},
		{"pods up and down", testUpAndDown},
		{"forced deletion frees a host port", testForced},
		{"a full node stays ready", testFull},
		{"the kubelet is killed", testKubeletKilled},
		{"containerd is killed", testContainerdKilled},
		{"a node is rebooted", testReboot},
		{"a node comes and goes", testThirdNode},
		{"the API is away", testAPIAway},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, c) })
		if t.Failed() {
			return // what follows would fail for the same reason, or for want of a clean start
		}
	}
}

// ready waits until a node is.
func (c *Cluster) ready(n *Node) {
	c.Helper()
	c.Until("node "+n.Name+" is ready", func() error {
		status, err := c.Try("get", "node", n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}{.status.conditions[?(@.type=="Ready")].message}`)
		if err == nil && !strings.HasPrefix(status, "True") {
			err = errors.New(status)
		}
		return err
	})
}

// web are two servers on each node, a Service of them, one of the pod hp alone, with a node port, and
// that pod, which has a host port. Each server answers with its client's address.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 4
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints: [{ maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: { matchLabels: { app: web } } }]
      containers: [{ name: c, image: "%[1]s", command: [peer, serve, web, "80"] }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ipFamilyPolicy: RequireDualStack, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: self }
spec: { selector: { app: hp }, type: NodePort, ipFamilyPolicy: RequireDualStack, ports: [{ port: 80, nodePort: 30080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: hp, labels: { app: hp } }
spec:
  nodeName: a
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: "%[1]s", command: [peer, serve, hp, "80"], ports: [{ containerPort: 80, hostPort: 8080 }] }]
`

// pod is one pod and where it is.
type pod struct {
	name, node string
	ips        []netip.Addr
}

func (c *Cluster) pods(selector string) (pods []pod) {
	c.Helper()
	said := c.Kubectl("get", "pods", "-l", selector, "-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{range .status.podIPs[*]} {.ip}{end}{"\n"}{end}`)
	for line := range strings.Lines(said) {
		f := strings.Fields(line)
		p := pod{name: f[0], node: f[1]}
		for _, text := range f[2:] {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				c.Fatalf("pod %s: %v", f[0], err)
			}
			p.ips = append(p.ips, addr)
		}
		pods = append(pods, p)
	}
	return pods
}

// addressesOf are those of a Service.
func (c *Cluster) addressesOf(service string) (all []netip.Addr) {
	c.Helper()
	for _, text := range strings.Fields(c.Kubectl("get", "service", service, "-o", `jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}`)) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			c.Fatalf("service %s: %v", service, err)
		}
		all = append(all, addr)
	}
	return all
}

// way is one question by TCP, and who is to answer it, seeing whom.
type way struct {
	name string
	ask  func(target string) (string, error)
	to   netip.Addr
	port string
	// server is the name that is answered with; seen, where it is valid, the client's address.
	server string
	seen   netip.Addr
}

func (c *Cluster) fromPod(p pod) func(string) (string, error) {
	return func(target string) (string, error) { return c.Exec(p.name, "peer", "ask", "tcp", target) }
}

// fromHost asks from a host's own namespace.
func fromHost(n *host.Namespace) func(string) (string, error) {
	return func(target string) (answer string, err error) {
		err = n.Do(func() error {
			conn, err := net.DialTimeout("tcp", target, dialPatience)
			if err != nil {
				return err
			}
			buffer := make([]byte, 200)
			size, err := conn.Read(buffer)
			answer = string(buffer[:size])
			return errors.Join(err, conn.Close())
		})
		return answer, err
	}
}

func (w way) test(t *testing.T, c *Cluster) {
	t.Helper()
	target := net.JoinHostPort(w.to.String(), w.port)
	c.Until(w.name+" "+target, func() error {
		answer, err := w.ask(target)
		if err != nil {
			return err
		}
		server, client, _ := strings.Cut(strings.TrimSpace(answer), " ")
		from, err := netip.ParseAddrPort(client)
		switch {
		case err != nil:
			return fmt.Errorf("got %q: %w", answer, err)
		case server != w.server:
			return fmt.Errorf("got an answer of %s, want %s", server, w.server)
		case w.seen.IsValid() && from.Addr().Unmap() != w.seen:
			return fmt.Errorf("the server saw %s, want %s", from.Addr(), w.seen)
		}
		return nil
	})
}

func sameFamily(all []netip.Addr, like netip.Addr) netip.Addr {
	for _, a := range all {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// testTraffic asks every way that a cluster has, in both families.
func testTraffic(t *testing.T, c *Cluster) {
	pods, hp := c.pods("app=web"), c.pods("app=hp")[0]
	i := slices.IndexFunc(pods, func(p pod) bool { return p.node == "b" })
	j := slices.IndexFunc(pods, func(p pod) bool { return p.node == "a" })
	if i < 0 || j < 0 {
		t.Fatalf("got pods %v, want some on each node", pods)
	}
	far, near, a := pods[i], pods[j], c.Nodes[0]
	var ways []way
	for _, ip := range far.ips {
		ways = append(ways,
			way{"pod to pod of another node", c.fromPod(near), ip, "80", "web", sameFamily(near.ips, ip)},
			way{"pod to pod of its node", c.fromPod(near), sameFamily(hp.ips, ip), "80", "hp", sameFamily(near.ips, ip)},
			way{"node to pod", fromHost(a.Namespace), sameFamily(hp.ips, ip), "80", "hp", netip.Addr{}},
			way{"node to pod of another", fromHost(a.Namespace), ip, "80", "web", netip.Addr{}})
	}
	for _, ip := range c.addressesOf("web") {
		ways = append(ways,
			way{"pod to Service", c.fromPod(near), ip, "80", "web", netip.Addr{}},
			way{"node to Service", fromHost(a.Namespace), ip, "80", "web", netip.Addr{}})
	}
	for _, ip := range c.addressesOf("self") {
		ways = append(ways,
			way{"pod to itself by its Service", c.fromPod(hp), ip, "80", "hp", netip.Addr{}},
			way{"pod of another node to Service", c.fromPod(far), ip, "80", "hp", sameFamily(far.ips, ip)})
	}
	for _, ip := range a.Addresses() {
		outside := fromHost(c.Switch.Namespace)
		ways = append(ways,
			way{"outside to host port", outside, ip, "8080", "hp", netip.Addr{}},
			way{"node to its host port", fromHost(a.Namespace), ip, "8080", "hp", netip.Addr{}},
			way{"pod to host port", c.fromPod(near), ip, "8080", "hp", netip.Addr{}},
			way{"pod to its own host port", c.fromPod(hp), ip, "8080", "hp", netip.Addr{}},
			way{"pod of another node to host port", c.fromPod(far), ip, "8080", "hp", netip.Addr{}},
			way{"outside to node port", outside, ip, "30080", "hp", netip.Addr{}},
			way{"outside to node port of another node", outside, sameFamily(c.Nodes[1].Addresses(), ip), "30080", "hp", netip.Addr{}},
			way{"pod to node port", c.fromPod(near), ip, "30080", "hp", netip.Addr{}})
	}
	ways = append(ways, way{"node to 127.0.0.1", fromHost(a.Namespace), netip.MustParseAddr("127.0.0.1"), "8080", "hp", netip.Addr{}})
	for _, w := range ways {
		w.test(t, c)
	}
	t.Logf("%d ways", len(ways))
}
