//go:build kubernetes

package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// The addresses of the cluster. Nodes have few pod addresses, so that it takes few pods to
// use them up.
const (
	apiAddress = "203.0.113.1"
	apiURL     = "https://" + apiAddress + ":6443"
	podCIDRs   = "10.244.0.0/16,fd00:10:244::/48"
	services   = "10.96.0.0/16,fd00:10:96::/112"
	maskIPv4   = 28
	podsOfNode = 13 // of 16 addresses: not the first and the last, nor the gateway's
)

// Cluster is a control plane on the switch's host of a lab, and its nodes.
type Cluster struct {
	*lab.Lab
	T     *testing.T
	Nodes []*Node

	bin  string // the directory of Kubernetes' programs
	etcd string // its URL
	pki  *pki
	api  func() string
	logs map[string]func() string
}

// New starts a control plane without nodes.
func New(t *testing.T) *Cluster {
	t.Helper()
	c := NewAPI(t)
	pki := c.pki.dir
	c.start("kube-controller-manager", "--kubeconfig="+pki+"/controller-manager.conf", "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file="+pki+"/sa.key", "--root-ca-file="+pki+"/ca.crt",
		"--allocate-node-cidrs", "--cluster-cidr="+podCIDRs, fmt.Sprint("--node-cidr-mask-size-ipv4=", maskIPv4), "--node-cidr-mask-size-ipv6=64",
		"--service-cluster-ip-range="+services, "--configure-cloud-routes=false", "--bind-address=127.0.0.1",
		"--flex-volume-plugin-dir="+pki+"/volume-plugins") // else it makes one in /usr
	c.start("kube-scheduler", "--kubeconfig="+pki+"/scheduler.conf", "--leader-elect=false", "--bind-address=127.0.0.1")
	return c
}

// NewAPI starts an etcd and an API server, and nothing that acts on what that is told.
func NewAPI(t *testing.T) *Cluster {
	t.Helper()
	bin := os.Getenv("TRESTLE_KUBERNETES")
	if _, err := os.Stat(filepath.Join(bin, "kube-apiserver")); err != nil {
		t.Fatalf("TRESTLE_KUBERNETES names no directory with Kubernetes' programs: %v; make test-kubernetes builds them", err)
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Fatalf("etcd is missing (Debian: etcd-server): %v", err)
	}
	c := &Cluster{Lab: lab.New(t), T: t, bin: bin, logs: map[string]func() string{}}
	t.Cleanup(c.dump)
	c.makePKI()
	c.Switch.MustRun("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	c.etcd = c.Etcd(1).URLs()[0]
	c.StartAPI()
	return c
}

func (c *Cluster) makePKI() {
	c.Helper()
	p, err := newPKI(c.TempDir())
	if err != nil {
		c.Fatalf("make certificates: %v", err)
	}
	c.pki = p
	for _, make := range []func() error{
		func() error {
			return p.sign("apiserver", "kube-apiserver", nil, []string{"kubernetes.default.svc", apiAddress, "10.96.0.1", "fd00:10:96::1"})
		},
		func() error { return p.client("admin", "admin", "system:masters") },
		func() error { return p.client("kubelet-client", "kube-apiserver-kubelet-client", "system:masters") },
		func() error { return p.client("controller-manager", "system:kube-controller-manager") },
		func() error { return p.client("scheduler", "system:kube-scheduler") },
		func() error { return p.client("proxy", "system:kube-proxy") },
	} {
		if err := make(); err != nil {
			c.Fatalf("make certificates: %v", err)
		}
	}
}

// StartAPI starts the API server and waits until it answers.
func (c *Cluster) StartAPI() {
	c.Helper()
	pki := c.pki.dir
	c.api = c.start("kube-apiserver", "--etcd-servers="+c.etcd, "--service-cluster-ip-range="+services,
		"--bind-address="+apiAddress, "--advertise-address="+apiAddress, "--secure-port=6443", "--allow-privileged=true", "--profiling=false",
		"--tls-cert-file="+pki+"/apiserver.crt", "--tls-private-key-file="+pki+"/apiserver.key", "--client-ca-file="+pki+"/ca.crt",
		"--kubelet-client-certificate="+pki+"/kubelet-client.crt", "--kubelet-client-key="+pki+"/kubelet-client.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-key-file="+pki+"/sa.pub", "--service-account-signing-key-file="+pki+"/sa.key",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction")
	c.Until("the API server answers", func() error {
		_, err := c.Try("get", "--raw", "/readyz")
		return err
	})
}

// start starts a program of Kubernetes' on the switch's host.
func (c *Cluster) start(name string, args ...string) func() string {
	stop := c.Switch.Start(host.Command{Args: append([]string{filepath.Join(c.bin, name)}, args...)})
	c.logs[name] = stop
	return stop
}

// dump says, where a test has failed, what the programs said last.
func (c *Cluster) dump() {
	if !c.T.Failed() {
		return
	}
	for name, stop := range c.logs {
		c.Logf("%s said:\n%s", name, last(stop(), 30))
	}
}

func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// patience bounds every wait: pods may be pulled, probed and backed off meanwhile, and a
// virtual machine without KVM takes twenty times as long for everything.
var patience = map[bool]time.Duration{false: 3 * time.Minute, true: 10 * time.Minute}[os.Getenv("TRESTLE_VM") != ""]

// Until asks until there is no error.
func (c *Cluster) Until(what string, ask func() error) {
	c.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: not after %v: %v", what, patience, err)
		}
		pause := time.NewTimer(200 * time.Millisecond)
		<-pause.C
	}
}

// Try runs kubectl.
func (c *Cluster) Try(args ...string) (string, error) { return c.try("", args...) }

func (c *Cluster) try(input string, args ...string) (string, error) {
	output, err := c.Switch.Run(host.Command{
		Args:  append([]string{filepath.Join(c.bin, "kubectl"), "--kubeconfig", filepath.Join(c.pki.dir, "admin.conf")}, args...),
		Env:   []string{"HOME=" + c.pki.dir}, // where it caches what the API has
		Stdin: input,
	})
	if err == nil && output.Code != 0 {
		err = fmt.Errorf("kubectl %s: %s%s", strings.Join(args, " "), output.Stdout, output.Stderr)
	}
	return strings.TrimSpace(output.Stdout), err
}

// Kubectl is Try for what must succeed.
func (c *Cluster) Kubectl(args ...string) string {
	c.Helper()
	said, err := c.Try(args...)
	if err != nil {
		c.Fatalf("%v", err)
	}
	return said
}

// Apply makes what a manifest says.
func (c *Cluster) Apply(manifest string) {
	c.Helper()
	c.Until("apply a manifest", func() error {
		_, err := c.try(manifest, "apply", "-f", "-")
		return err
	})
}

// Exec runs a command in a pod.
func (c *Cluster) Exec(pod string, command ...string) (string, error) {
	return c.Try(append([]string{"exec", pod, "--"}, command...)...)
}

// Field reads one field of an object by a JSONPath.
func (c *Cluster) Field(object, path string) string {
	c.Helper()
	return c.Kubectl("get", object, "-o", "jsonpath={"+path+"}")
}

// RolledOut waits for a Deployment or DaemonSet, of the namespace if one is named.
func (c *Cluster) RolledOut(object string, more ...string) {
	c.Helper()
	c.Until(object+" is rolled out", func() error {
		_, err := c.Try(append([]string{"rollout", "status", object, "--timeout=20s"}, more...)...)
		return err
	})
}
