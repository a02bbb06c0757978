//go:build kubernetes

package kubernetes

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// Image has busybox, and the program peer; AgentImage has the programs of the
// Dockerfile in docs/kubernetes.md.
const (
	Image      = runtimes.Image
	AgentImage = "localhost/trestle:1"
)

// Node is a machine with a kubelet, kube-proxy and containerd.
type Node struct {
	*lab.Host
	machine    *runtimes.Machine
	cluster    *Cluster
	containerd *runtimes.Containerd
	kubelet    func() string
	proxy      func() string
}

// Node makes a machine a node of the cluster, with kube-proxy in the mode. It has no
// plugins and no network yet.
func (c *Cluster) Node(name, mode string) *Node {
	c.Helper()
	m := runtimes.New(c.T)
	n := &Node{Host: c.Plug(m.Host, name), machine: m, cluster: c}
	n.prepare()
	if err := c.pki.sign(name, "system:node:"+name, []string{"system:nodes"}, []string{name, n.IPv4.String()}); err != nil {
		c.Fatalf("certificate of %s: %v", name, err)
	}
	if err := c.pki.kubeconfig(name); err != nil {
		c.Fatalf("kubeconfig of %s: %v", name, err)
	}
	dir, config := os.Getenv("TRESTLE_CONTAINERD2"), runtimes.CRIConfig2
	if dir == "" {
		config = runtimes.CRIConfig // Debian's containerd 1.6
	}
	n.containerd = m.Containerd(dir, config, "k8s.io")
	files := map[string]string{}
	for _, program := range []string{"bridge", "trestle", "trestle-node"} {
		files["trestle/"+program] = filepath.Join(n.Dirs().Trestle, program)
	}
	n.containerd.Image(AgentImage, "k8s.io", files)
	n.StartKubelet()
	n.StartProxy(mode)
	c.Nodes = append(c.Nodes, n)
	return n
}

// hostWide are settings of the kernel's, not of a namespace's, that a kubelet changes. It
// finds files in their place that have the values that it wants.
var hostWide = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// prepare keeps from the real host what a kubelet writes besides.
func (n *Node) prepare() {
	n.cluster.Helper()
	err := n.Do(func() error {
		for _, dir := range []string{"/var/log", "/var/lib/kubelet", "/opt/cni/bin"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
				return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
			}
		}
		for name, value := range hostWide {
			file := "/var/lib/runtimes/" + strings.ReplaceAll(name, "/", "_")
			if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
				return err
			}
			if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("lay %s over %s: %w", file, name, err)
			}
		}
		return nil
	})
	if err != nil {
		n.cluster.Fatalf("prepare %s: %v", n.Name, err)
	}
	// What docs/kubernetes.md asks of a node with kube-proxy.
	n.MustRun("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
}

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: %[1]s/ca.crt } }
authorization: { mode: Webhook }
tlsCertFile: %[1]s/%[2]s.crt
tlsPrivateKeyFile: %[1]s/%[2]s.key
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [none]
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
oomScoreAdj: 0
evictionHard: { memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%% }
syncFrequency: 10s
volumePluginDir: /var/lib/kubelet/volume-plugins
`

// StartKubelet starts it, again where it was killed.
func (n *Node) StartKubelet() {
	pki := n.cluster.pki.dir
	n.Write("/etc/kubernetes/kubelet.yaml", fmt.Sprintf(kubeletConfig, pki, n.Name))
	n.kubelet = n.machine.StartRuntime(host.Command{Args: []string{
		filepath.Join(n.cluster.bin, "kubelet"), "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=" + pki + "/" + n.Name + ".conf",
		"--hostname-override=" + n.Name, fmt.Sprintf("--node-ip=%s,%s", n.IPv4, n.IPv6),
	}})
	n.cluster.logs["kubelet of "+n.Name] = n.kubelet
}

// KillKubelet kills it; its pods stay.
func (n *Node) KillKubelet() { n.kubelet() }

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: { kubeconfig: %s/proxy.conf }
mode: %s
clusterCIDR: %s
hostnameOverride: %s
oomScoreAdj: 0
conntrack: { maxPerCore: 0, min: 0 }
`

// StartProxy starts kube-proxy in a mode; one that runs is ended, and its rules are removed.
func (n *Node) StartProxy(mode string) {
	n.cluster.Helper()
	program := filepath.Join(n.cluster.bin, "kube-proxy")
	if n.proxy != nil {
		n.proxy()
		n.MustRun(program, "--cleanup")
	}
	n.Write("/etc/kubernetes/proxy.yaml", fmt.Sprintf(proxyConfig, n.cluster.pki.dir, mode, podCIDRs, n.Name))
	n.proxy = n.Start(host.Command{Args: []string{program, "--config=/etc/kubernetes/proxy.yaml"}})
	n.cluster.logs["kube-proxy of "+n.Name] = n.proxy
}

// Addresses are the node's, each as it stands in a URL.
func (n *Node) Addresses() []netip.Addr { return []netip.Addr{n.IPv4, n.IPv6} }

// Left is what Trestle has on the node: it counts addresses and containers' host veths.
func (n *Node) Left() (leases, veths int) {
	for _, name := range n.machine.Leases("pods") {
		if _, err := netip.ParseAddr(name); err == nil {
			leases++
		}
	}
	for line := range strings.Lines(n.MustRun("ip", "-o", "link", "show", "type", "veth")) {
		if strings.Contains(line, "master tn-pods") {
			veths++
		}
	}
	return leases, veths
}

// Reboot is what a reboot leaves: files, and nothing of /run, of processes, of namespaces
// and of the kernel's links and rules.
func (n *Node) Reboot() {
	n.cluster.Helper()
	n.KillKubelet()
	n.proxy()
	n.containerd.Kill()
	n.MustRun("sh", "-ec", `
		for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || [ $p = $$ ] || kill -9 $p 2>/dev/null || true; done
		for m in $(awk '$2 ~ "^/(run|var/lib/kubelet)/" {print $2}' /proc/mounts | sort -r); do umount -l $m 2>/dev/null || true; done
		find /run -mindepth 1 -delete 2>/dev/null || true
		for l in $(ip -o link show type veth | awk -F'[ @:]+' '/master/ {print $2}') tn-pods trestle-vx; do ip link del $l 2>/dev/null || true; done
		nft flush ruleset; ip route flush proto 116; ip -6 route flush proto 116
		cat /proc/sys/kernel/random/uuid >/var/lib/runtimes/boot-id
		mount --bind /var/lib/runtimes/boot-id /proc/sys/kernel/random/boot_id`)
	n.proxy = nil
	n.containerd.Start()
	n.StartKubelet()
}
