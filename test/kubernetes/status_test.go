//go:build kubernetes

package kubernetes

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// verbs is where verbRecorder writes what plugins are executed for.
const verbs = "/var/lib/runtimes/verbs"

// verbRecorder stands in the place of bridge, which is in a directory below.
const verbRecorder = `#!/bin/sh
echo "$CNI_COMMAND" >>` + verbs + `
exec /opt/cni/bin/recorded/bridge "$@"
`

// TestStatus: what a kubelet on containerd 2 makes of STATUS, by a list of version 1.1.0, and what nobody but a
// person frees, as containerd asks for no GC.
func TestStatus(t *testing.T) {
	if os.Getenv("TRESTLE_CONTAINERD2") == "" {
		t.Skip("containerd 1.6 has no STATUS: make test-kubernetes CONTAINERD=2")
	}
	c := New(t)
	n := c.Node("a", "nftables")
	n.machine.Install(n.Dirs().Trestle)
	n.MustRun("sh", "-ec", "cd /opt/cni/bin; mkdir recorded; mv bridge recorded/bridge; : >"+verbs)
	n.Write("/opt/cni/bin/bridge", verbRecorder)
	n.MustRun("chmod", "+x", "/opt/cni/bin/bridge")
	n.unready("cni plugin not initialized")

	n.useList(t, `"statusWhenFull": "unavailable", `)
	c.ready(n)
	t.Log(c.Kubectl("get", "nodes", "-o", "wide"))
	c.Apply(fmt.Sprintf(web, Image)) // one of its pods has a host port
	c.Kubectl("scale", "deployment/web", "--replicas=0")
	c.podReady("hp")
	c.hostPort(t)

	t.Run("a full pool is a reason", func(t *testing.T) { testUnavailable(t, n) })
	t.Run("or not", func(t *testing.T) {
		n.useList(t, "")
		c.ready(n)
		testFullButReady(t, n)
	})
	t.Run("STATUS of what is broken", func(t *testing.T) { testBroken(t, n) })
	t.Run("nobody asks for GC", func(t *testing.T) { testNoGC(t, n) })
}

// useList writes the page's network list, for the node's addresses, in version 1.1.0, with one
// more key of host-local's; in place, as containerd notices.
func (n *Node) useList(t *testing.T, key string) {
	t.Helper()
	cidrs := strings.Fields(n.cluster.Field("node/"+n.Name, `.spec.podCIDRs[0]} {.spec.podCIDRs[1]`))
	if len(cidrs) != 2 {
		t.Fatalf("got podCIDRs %v, want one of each family", cidrs)
	}
	n.Write("/etc/cni/net.d/10-k8s.conflist", strings.NewReplacer(
		`"1.0.0"`, `"1.1.0"`, "10.244.1.0/24", cidrs[0], "fd00:10:244:1::/64", cidrs[1],
		`"type": "host-local",`, `"type": "host-local", `+key).Replace(block(t, "json", `"name": "k8s"`)))
}

// unready waits until the node is not, and says why.
func (n *Node) unready(why string) {
	n.cluster.Helper()
	n.cluster.Until("node "+n.Name+" is not ready: "+why, func() error {
		said, err := n.cluster.Try("get", "node", n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		if err == nil && (!strings.HasPrefix(said, "False") || !strings.Contains(said, why)) {
			err = errors.New(said)
		}
		return err
	})
}

func (c *Cluster) podReady(name string) {
	c.Helper()
	c.Until(name+" is ready", func() error {
		_, err := c.Try("wait", "--for=condition=Ready", "pod/"+name, "--timeout=20s")
		return err
	})
}

// testUnavailable: the kubelet says of a node whose addresses are used up what STATUS says, nothing more is scheduled
// there, those that run go on, and it is ready again when some are free.
func testUnavailable(t *testing.T, n *Node) {
	c := n.cluster
	c.many(podsOfNode-1, "a") // and hp
	c.RolledOut("deployment/many")
	n.unready("no IP addresses available in range set")
	t.Log(c.Field("node/a", `.status.conditions[?(@.type=="Ready")].message`))
	c.Until("the taint", func() error {
		if taints := c.Field("node/a", ".spec.taints"); !strings.Contains(taints, "node.kubernetes.io/not-ready") {
			return fmt.Errorf("got taints %s", taints)
		}
		return nil
	})
	c.hostPort(t)
	c.many(3, "a")
	c.ready(n)
	c.Until("no taint", func() error {
		if taints := c.Field("node/a", ".spec.taints"); taints != "" {
			return fmt.Errorf("got taints %s", taints)
		}
		return nil
	})
	c.RolledOut("deployment/many")
	c.many(0, "")
	c.noneOf("app=many")
	n.has(t, 1)
}

// testFullButReady: by default it stays ready, although STATUS is asked.
func testFullButReady(t *testing.T, n *Node) {
	c := n.cluster
	c.many(podsOfNode+1, "a")
	n.has(t, podsOfNode)
	asked := n.asked("STATUS")
	c.Until("STATUS is asked again", func() error {
		if now := n.asked("STATUS"); now < asked+3 {
			return fmt.Errorf("%d times, and %d before", now, asked)
		}
		return nil
	})
	if ready := c.Field("node/a", `.status.conditions[?(@.type=="Ready")].status`); ready != "True" {
		t.Errorf("the node is full, and its Ready is %s", ready)
	}
	c.many(0, "")
	c.noneOf("app=many")
	n.has(t, 1)
}

// testBroken: a list that no ADD could succeed by.
func testBroken(t *testing.T, n *Node) {
	const list = "/etc/cni/net.d/10-k8s.conflist"
	good := n.MustRun("cat", list)
	n.Write(list, strings.Replace(good, `"bridge": "cni0"`, `"bridge": "a name longer than a link's"`, 1))
	n.unready("longer than a link's")
	t.Log(n.cluster.Field("node/a", `.status.conditions[?(@.type=="Ready")].message`))
	n.Write(list, good)
	n.cluster.ready(n)
}

// testNoGC: what is left of a container that containerd never heard of stays, however often it and the kubelet
// start, until `trestle gc`, which spares the others.
func testNoGC(t *testing.T, n *Node) {
	c := n.cluster
	lost := n.Container("lost")
	if _, err := n.Network(n.MustRun("cat", "/etc/cni/net.d/10-k8s.conflist")).Add(lost.Attachment()); err != nil {
		t.Fatal(err)
	}
	n.containerd.Kill()
	n.KillKubelet()
	lost.Remove()
	n.containerd.Start()
	n.StartKubelet()
	asked := n.asked("STATUS")
	c.Until("STATUS is asked again", func() error {
		if now := n.asked("STATUS"); now < asked+3 {
			return fmt.Errorf("%d times, and %d before", now, asked)
		}
		return nil
	})
	c.ready(n)
	c.podReady("hp")
	if leases := n.leases(); leases != 4 {
		t.Errorf("got %d addresses, want those of hp and of the lost one", leases)
	}
	output, err := n.Run(host.Command{Args: []string{"sort", "-u", verbs}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Fields(output.Stdout), []string{"ADD", "DEL", "STATUS"}; !slices.Equal(got, want) {
		t.Errorf("got bridge executed for %v, want %v", got, want)
	}
	n.MustRun("mv", "/opt/cni/bin/recorded/bridge", "/opt/cni/bin/bridge") // the command executes Trestle's plugins alone
	if said := n.MustRun(n.Dirs().Trestle+"/trestle", "gc"); !strings.Contains(said, "freed k8s/lost/eth0") {
		t.Errorf("trestle gc: got %q, want the lost one freed", said)
	}
	n.has(t, 1)
	c.hostPort(t)
}

// asked is how often bridge was executed for a verb.
func (n *Node) asked(verb string) int {
	n.cluster.Helper()
	return strings.Count(n.MustRun("cat", verbs), verb+"\n")
}

// has waits until so many pods have addresses and host veths, and nobody else.
func (n *Node) has(t *testing.T, pods int) {
	t.Helper()
	n.cluster.Until(fmt.Sprintf("%d pods have what they have, and no more", pods), func() error {
		veths := strings.Count(n.MustRun("ip", "-o", "link", "show", "type", "veth", "master", "cni0"), "\n")
		if leases := n.leases(); leases != 2*pods || veths != pods {
			return fmt.Errorf("%d addresses, %d host veths", leases, veths)
		}
		return nil
	})
}

// leases counts those of the network k8s.
func (n *Node) leases() int { return len(n.machine.Leases("k8s")) }
