package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// nodeAnnotation is the annotation of a Node in which its agent publishes the host's record
// (cluster.Node) as JSON, without the keys in fromNode. When the host has left it is
// {"left": true}.
const nodeAnnotation = "trestle.io/node"

// fromNode are the keys of a record that are taken from the Node, whatever its annotation
// says: its name, its subnets, and the MAC, which is derived from the name. A host that
// published another's MAC would get that host's frames.
var fromNode = []string{"id", "name", "subnets", "mac"}

// errNoAgent is the error of a Node without the annotation.
var errNoAgent = errors.New("it has no annotation " + nodeAnnotation + ": trestle-node does not run there")

// recordOf is the record of a Node's host. There is none if the host has left, or if the Node
// has neither podCIDRs nor our annotation.
func recordOf(n *corev1.Node, network cluster.Network) (cluster.Value, bool) {
	note, noted := n.Annotations[nodeAnnotation]
	if !noted && len(n.Spec.PodCIDRs) == 0 {
		return cluster.Value{}, false
	}
	owned, err := ownedBy(n, network)
	if err != nil {
		return cluster.Value{Err: err}, true
	}
	if !noted {
		return cluster.Value{Err: errNoAgent}, true
	}
	record := map[string]any{}
	if err := json.Unmarshal([]byte(note), &record); err != nil {
		return cluster.Value{Err: fmt.Errorf("annotation %s: %w", nodeAnnotation, err)}, true
	}
	if record["left"] == true {
		return cluster.Value{}, false
	}
	record["id"], record["name"], record["subnets"], record["mac"] = n.Name, n.Name, owned, overlay.MAC(n.Name)
	data, err := json.Marshal(record)
	return cluster.Value{Data: data, Err: err}, true
}

// annotationOf is the inverse of recordOf; nil is a host that has left.
func annotationOf(record []byte) (string, error) {
	if record == nil {
		return `{"left":true}`, nil
	}
	note := map[string]json.RawMessage{}
	if err := json.Unmarshal(record, &note); err != nil {
		return "", err
	}
	for _, key := range fromNode {
		delete(note, key)
	}
	data, err := json.Marshal(note)
	return string(data), err
}

// ownedBy are the Node's podCIDRs in the families that the network has. With an error, which
// says what is to be done about the control plane, it returns those that are right.
func ownedBy(n *corev1.Node, network cluster.Network) ([]cluster.Owned, error) {
	var owned []cluster.Owned
	var failed error
	has := map[cluster.Family]bool{}
	for _, text := range n.Spec.PodCIDRs {
		subnet, err := netip.ParsePrefix(text)
		if err != nil || subnet != subnet.Masked() {
			failed = errors.Join(failed, fmt.Errorf("node %s: podCIDR %q is no prefix", n.Name, text))
			continue
		}
		family := cluster.FamilyOf(subnet.Addr())
		pool, ok := poolOf(network, family)
		if !ok {
			continue // the network has no pool of this family: the administrator does not want it
		}
		if has[family] = true; !isWithin(subnet, pool) {
			failed = errors.Join(failed, fmt.Errorf("node %s: podCIDR %s is not within %s of network %s: "+
				"the pool must be the --cluster-cidr of kube-controller-manager", n.Name, subnet, pool, network.Name))
			continue
		}
		owned = append(owned, cluster.Owned{Network: network.Name, Subnet: subnet, Nonce: "kubernetes"})
	}
	slices.SortFunc(owned, func(a, b cluster.Owned) int { return a.Subnet.Addr().Compare(b.Subnet.Addr()) })
	for _, p := range network.Pools() {
		if family := cluster.FamilyOf(p.Prefix.Addr()); !has[family] {
			failed = errors.Join(failed, missingCIDR(n, family, p.Prefix))
		}
	}
	return owned, failed
}

func poolOf(network cluster.Network, family cluster.Family) (netip.Prefix, bool) {
	for _, p := range network.Pools() {
		if cluster.FamilyOf(p.Prefix.Addr()) == family {
			return p.Prefix, true
		}
	}
	return netip.Prefix{}, false
}

func isWithin(subnet, pool netip.Prefix) bool {
	return pool.Contains(subnet.Addr()) && subnet.Bits() >= pool.Bits()
}

// missingCIDR is the error if the Node has no podCIDR of a family, with the way out.
func missingCIDR(n *corev1.Node, family cluster.Family, pool netip.Prefix) error {
	which := map[cluster.Family]string{cluster.IPv4: "IPv4", cluster.IPv6: "IPv6"}[family]
	if len(n.Spec.PodCIDRs) == 0 {
		return fmt.Errorf("node %s has no podCIDRs yet, and the network wants one of %s: kube-controller-manager assigns them, "+
			"with --allocate-node-cidrs=true and --cluster-cidr=%s (kubeadm: networking.podSubnet)", n.Name, which, pool)
	}
	return fmt.Errorf("node %s has no podCIDR of %s, only %v: add %s to the --cluster-cidr of kube-controller-manager and create the Node again, "+
		"or remove the pool from the network", n.Name, which, n.Spec.PodCIDRs, pool)
}

func missingNode(name string) error {
	return fmt.Errorf("there is no Node named %s: kubectl get nodes lists them; "+
		`"name" in node.json or $NODE_NAME must be the kubelet's name (--hostname-override), and the kubelet creates its Node when it starts`, name)
}

func putJSON(view cluster.View, key string, value any) error {
	data, err := json.Marshal(value)
	view.Keys[key] = cluster.Value{Data: data, Revision: cmp.Or(view.Revision, 1)}
	return err
}
