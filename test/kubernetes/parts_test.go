//go:build kubernetes

package kubernetes

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var dialPatience = map[bool]time.Duration{false: 3 * time.Second, true: 20 * time.Second}[os.Getenv("TRESTLE_VM") != ""]

// namespace is that of trestle-node.
const namespace = "--namespace=kube-system"

// nothingMore waits until a node has an address and a host veth for each of its pods, and
// no more.
func (c *Cluster) nothingMore(t *testing.T, n *Node) {
	t.Helper()
	c.Until("node "+n.Name+" has what its pods have, and no more", func() error {
		said, err := c.Try("get", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+n.Name, "-o",
			`jsonpath={range .items[*]}{.metadata.name}/{.spec.hostNetwork}{"\n"}{end}`)
		if err != nil {
			return err
		}
		pods := 0
		for pod := range strings.FieldsSeq(said) {
			if strings.HasSuffix(pod, "/") {
				pods++
			}
		}
		leases, veths := n.Left()
		if leases != 2*pods || veths != pods {
			return fmt.Errorf("%d pods, %d addresses, %d host veths", pods, leases, veths)
		}
		return nil
	})
}

// many is a Deployment of so many pods, on one node or all.
func (c *Cluster) many(replicas int, node string) {
	c.Helper()
	selector := ""
	if node != "" {
		selector = "nodeSelector: { kubernetes.io/hostname: " + node + " }"
	}
	c.Apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: { name: many }
spec:
  replicas: %d
  selector: { matchLabels: { app: many } }
  template:
    metadata: { labels: { app: many } }
    spec:
      terminationGracePeriodSeconds: 0
      %s
      containers: [{ name: c, image: "%s", command: [peer, serve, many, "80"] }]
`, replicas, selector, Image))
}

func (c *Cluster) noneOf(selector string) {
	c.Helper()
	c.Until("no pod of "+selector, func() error {
		said, err := c.Try("get", "pods", "-l", selector, "-o", "name")
		if err == nil && said != "" {
			err = fmt.Errorf("there are %s", said)
		}
		return err
	})
}

// testOwnNode: an agent's token is good for its own Node's annotation.
func testOwnNode(_ *testing.T, c *Cluster) {
	agent := strings.Fields(c.Kubectl("get", "pods", namespace, "-l", "app=trestle-node", "--field-selector=spec.nodeName=a", "-o", "jsonpath={.items[*].metadata.name}"))[0]
	token := c.Kubectl("exec", namespace, agent, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	for _, p := range []struct{ node, patch, want string }{
		{"b", `{"metadata": {"annotations": {"trestle.io/node": "{}"}}}`, "writes to the Node that it runs on, and to no other"},
		{"a", `{"metadata": {"labels": {"x": "y"}}}`, "writes its annotation, and nothing else"},
		{"a", `{"spec": {"unschedulable": true}}`, "writes its annotation, and nothing else"},
		{"a", `{"metadata": {"annotations": {"x": "y"}}}`, ""},
	} {
		c.Until("patch of "+p.node, func() error { // the policy takes some moments to be in force
			_, err := c.Try("--kubeconfig=/dev/null", "--server="+apiURL, "--certificate-authority="+c.pki.dir+"/ca.crt", "--token="+token,
				"patch", "node", p.node, "--type=merge", "-p", p.patch)
			switch {
			case p.want == "":
				return err
			case err == nil:
				return fmt.Errorf("%s: it was done, want %q", p.patch, p.want)
			case !strings.Contains(err.Error(), p.want):
				return fmt.Errorf("%s: want %q: %w", p.patch, p.want, err)
			}
			return nil
		})
	}
	c.Kubectl("label", "node", "a", "x-")
	c.Kubectl("uncordon", "a")
}

// testUpAndDown: ten pods on each node, up and down, twice.
func testUpAndDown(t *testing.T, c *Cluster) {
	for range 2 {
		began := time.Now()
		c.many(2*(podsOfNode-5), "")
		c.RolledOut("deployment/many")
		up := time.Since(began)
		c.many(0, "")
		c.noneOf("app=many")
		t.Logf("%d pods up in %v, down in %v", 2*(podsOfNode-5), up, time.Since(began)-up)
		for _, n := range c.Nodes {
			c.nothingMore(t, n)
		}
	}
}

// testForced: a pod that is deleted by force leaves its host port to the next at once.
func testForced(t *testing.T, c *Cluster) {
	c.Kubectl("delete", "pod", "hp", "--force", "--grace-period=0")
	c.Apply(fmt.Sprintf(web, Image))
	c.podReady("hp")
	c.hostPort(t)
	c.nothingMore(t, c.Nodes[0])
}

func (c *Cluster) hostPort(t *testing.T) {
	t.Helper()
	for _, ip := range c.Nodes[0].Addresses() {
		way{name: "outside to host port", ask: fromHost(c.Switch.Namespace), to: ip, port: "8080", server: "hp"}.test(t, c)
	}
}

// testFull: more pods than addresses wait, and run when others go; the node stays ready,
// and nobody is evicted.
func testFull(t *testing.T, c *Cluster) {
	a := c.Nodes[0]
	c.many(podsOfNode+2, "a")
	c.Until("the node is full", func() error {
		if leases, _ := a.Left(); leases < 2*podsOfNode {
			return fmt.Errorf("%d addresses are given out", leases)
		}
		said, err := c.Try("get", "events", "--field-selector=reason=FailedCreatePodSandBox", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(said, "no IP addresses available in range set") {
			err = fmt.Errorf("no pod says why it waits: %s", said)
		}
		return err
	})
	if ready := c.Field("node/a", `.status.conditions[?(@.type=="Ready")].status`); ready != "True" {
		t.Errorf("the node is full, and its Ready is %s", ready)
	}
	if taints := c.Field("node/a", ".spec.taints"); taints != "" {
		t.Errorf("the node is full, and has taints %s", taints)
	}
	c.many(3, "a")
	c.RolledOut("deployment/many")
	c.many(0, "")
	c.noneOf("app=many")
	c.nothingMore(t, a)
}

// testKubeletKilled: what is deleted while the kubelet is away goes when it is back.
func testKubeletKilled(t *testing.T, c *Cluster) {
	a := c.Nodes[0]
	c.many(4, "a")
	c.RolledOut("deployment/many")
	a.KillKubelet()
	c.many(0, "")
	c.hostPort(t)
	a.StartKubelet()
	c.noneOf("app=many")
	c.ready(a)
	c.nothingMore(t, a)
}

// testContainerdKilled: amidst ADDs, and amidst DELs.
func testContainerdKilled(t *testing.T, c *Cluster) {
	a := c.Nodes[0]
	for _, replicas := range []int{podsOfNode - 4, 0} {
		before, _ := a.Left()
		c.many(replicas, "a")
		c.Until("pods come or go", func() error {
			if now, _ := a.Left(); now == before {
				return fmt.Errorf("%d addresses as before", now)
			}
			return nil
		})
		a.containerd.Kill()
		c.hostPort(t)
		a.containerd.Start()
		c.ready(a)
		if replicas > 0 {
			c.RolledOut("deployment/many")
		} else {
			c.noneOf("app=many")
		}
		c.nothingMore(t, a)
	}
}

// testReboot: pods come back, and what the boot before had in addresses is given back.
func testReboot(t *testing.T, c *Cluster) {
	a := c.Nodes[0]
	before := c.Field("node/a", ".spec.podCIDRs")
	a.Reboot()
	a.StartProxy("nftables")
	c.ready(a)
	c.RolledOut("daemonset/trestle-node", namespace)
	c.RolledOut("deployment/web")
	if after := c.Field("node/a", ".spec.podCIDRs"); after != before {
		t.Errorf("got podCIDRs %s, want %s", after, before)
	}
	a.MustRun("/opt/cni/bin/trestle", "gc")
	c.nothingMore(t, a)
	testTraffic(t, c)
}

// testThirdNode: the others reach a node that comes, and forget one that is deleted.
func testThirdNode(t *testing.T, c *Cluster) {
	third := c.Node("c", "nftables")
	c.ready(third)
	cidr := c.Field("node/c", ".spec.podCIDRs[0]")
	routed := func(n *Node) bool { return strings.Contains(n.MustRun("ip", "route", "show", "proto", "116"), cidr) }
	for _, n := range c.Nodes[:2] {
		c.Until("a route of "+n.Name+" to c", func() error {
			if !routed(n) {
				return fmt.Errorf("no route to %s", cidr)
			}
			return nil
		})
	}
	c.many(1, "c")
	c.RolledOut("deployment/many")
	far, near := c.pods("app=many")[0], c.pods("app=hp")[0]
	for _, ip := range far.ips {
		way{"pod to pod of the new node", c.fromPod(near), ip, "80", "many", sameFamily(near.ips, ip)}.test(t, c)
	}
	third.KillKubelet() // or it makes its Node again
	c.Kubectl("delete", "node", "c")
	for _, n := range c.Nodes[:2] {
		c.Until("no route of "+n.Name+" to c", func() error {
			if routed(n) {
				return fmt.Errorf("still a route to %s", cidr)
			}
			return nil
		})
	}
	c.many(0, "")
	c.Nodes = c.Nodes[:2]
	c.noneOf("app=many")
}

// testAPIAway: traffic goes on, and all are connected again when it is back.
func testAPIAway(t *testing.T, c *Cluster) {
	c.api()
	c.hostPort(t)
	for _, n := range c.Nodes {
		c.Until(n.Name+" says so", func() error {
			if said := n.MustRun("cat", "/run/trestle/node/status.json"); !strings.Contains(said, `"connected": false`) {
				return fmt.Errorf("got %s", said)
			}
			return nil
		})
	}
	c.StartAPI()
	for _, n := range c.Nodes {
		c.Until(n.Name+" is connected", func() error {
			if said := n.MustRun("cat", "/run/trestle/node/status.json"); !strings.Contains(said, `"connected": true`) {
				return fmt.Errorf("got %s", said)
			}
			return nil
		})
		c.ready(n)
	}
}
