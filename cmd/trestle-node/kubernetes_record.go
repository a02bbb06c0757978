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

// nodeAnnotation of a Node holds what its host tells the others: the record of
// pkg/cluster without what the Node itself says, as JSON. Once the host has left it is
// {"left": true}.
const nodeAnnotation = "trestle.io/node"

// fromNode are the keys of a record that come from the Node, and not from what may have
// been written into its annotation: its name, its subnets, and the MAC, which is made
// from the name. With another's MAC a host would get what is sent to that.
var fromNode = []string{"id", "name", "subnets", "mac"}

// errNoAgent is of a Node without the annotation.
var errNoAgent = errors.New("it has no annotation " + nodeAnnotation + ": trestle-node does not run there")

// recordOf is the record that a Node stands for. There is none where it is no host of
// ours and never was.
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

// annotationOf is the inverse of recordOf; no record is a host that has left.
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

// ownedBy are the subnets that a Node gives its host: of each family that the network
// has, its podCIDR. The error says what the control plane has to do; what is right is
// given all the same.
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
			continue // the administrator does not want it: the network has no pool of this family
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

// missingCIDR says what is to be done so that the Node has a podCIDR of the family.
func missingCIDR(n *corev1.Node, family cluster.Family, pool netip.Prefix) error {
	which := map[cluster.Family]string{cluster.IPv4: "IPv4", cluster.IPv6: "IPv6"}[family]
	if len(n.Spec.PodCIDRs) == 0 {
		return fmt.Errorf("node %s has no podCIDRs yet, and %s of them is wanted: kube-controller-manager gives them, "+
			"with --allocate-node-cidrs=true and --cluster-cidr=%s (kubeadm: networking.podSubnet)", n.Name, which, pool)
	}
	return fmt.Errorf("node %s has no podCIDR of %s, only %v: add %s to the --cluster-cidr of kube-controller-manager and recreate the Node, "+
		"or take the pool out of the network", n.Name, which, n.Spec.PodCIDRs, pool)
}

func missingNode(name string) error {
	return fmt.Errorf("there is no Node named %s: kubectl get nodes lists those that there are; "+
		`"name" in node.json or $NODE_NAME is to be what the kubelet is called (--hostname-override), and the kubelet makes its Node when it starts`, name)
}

func putJSON(view cluster.View, key string, value any) error {
	data, err := json.Marshal(value)
	view.Keys[key] = cluster.Value{Data: data, Revision: cmp.Or(view.Revision, 1)}
	return err
}
