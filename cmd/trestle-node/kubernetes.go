package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// kubernetesStore is a store made of the Nodes of a Kubernetes cluster. The control plane
// assigns subnets (Node.spec.podCIDRs); each host publishes the rest of its record in an
// annotation of its own Node. The configuration is a file, the same on each host.
type kubernetesStore struct {
	nodes   *nodeClient
	name    string // of this host's Node
	config  string // the file
	timeout time.Duration

	mu  sync.Mutex
	uid types.UID // of this host's Node, when it was last read
	// had are the records that Get or Watch last returned, by the nodes' names, and listed is
	// the revision of Get's: Watch reports newer ones that differ.
	had    map[string]cluster.Value
	listed int64
}

func openKubernetes(s settings) (*kubernetesStore, error) {
	nodes, err := newNodeClient(s.Kubernetes.Kubeconfig, s.Timeout.Duration)
	if err != nil {
		return nil, err
	}
	return &kubernetesStore{
		nodes: nodes, name: s.Name, config: s.Kubernetes.Config, timeout: s.Timeout.Duration,
		had: map[string]cluster.Value{},
	}, nil
}

func (s *kubernetesStore) Close() error {
	s.nodes.close()
	return nil
}

func (s *kubernetesStore) Describe() string { return "Kubernetes at " + s.nodes.url }

// readConfig reads the configuration. It must have exactly one network: a Node's podCIDRs
// name none.
func (s *kubernetesStore) readConfig() (cluster.Config, error) {
	data, err := rawfile.Read(s.config)
	if isMissing(err) {
		return cluster.Config{}, cni.ConfigErrorf("%w: %s must have the network with the cluster's podCIDR as pool, "+
			`like {"networks": [{"name": "pods", "ipv4": {"pool": "10.244.0.0/16"}}]}`, err, s.config)
	}
	if err != nil {
		return cluster.Config{}, err
	}
	c, err := cluster.ParseConfig(data)
	if err != nil {
		return c, cni.ConfigErrorf("%s: %w", s.config, cni.Plain(err))
	}
	if len(c.Networks) != 1 {
		return c, cni.ConfigErrorf("%s: networks: there are %d, and a Node of Kubernetes has subnets of one only; remove the others", s.config, len(c.Networks))
	}
	c.ID = "kubernetes"
	return c, nil
}

// Get reads this host's Node alone, which is cheap, unless keys of other nodes are asked for,
// or claims are and this host lacks a subnet.
func (s *kubernetesStore) Get(ctx context.Context, keys ...string) (cluster.View, error) {
	config, err := s.readConfig()
	if err != nil {
		return cluster.View{}, err
	}
	view := cluster.View{Store: "kubernetes", Keys: map[string]cluster.Value{}, Complete: true}
	if err := putJSON(view, cluster.KeyConfig, config); err != nil {
		return view, err
	}
	if slices.Equal(keys, []string{cluster.PrefixReleased}) {
		return view, nil // there are no tombstones: a Node that is gone has no subnet
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	whole := slices.ContainsFunc(keys, s.isOthers)
	nodes, revision, err := s.list(ctx, whole)
	if err != nil {
		return cluster.View{}, err
	}
	lacking := s.ownNode(nodes, config.Networks[0])
	if lacking != nil && !whole && slices.Contains(keys, cluster.PrefixClaims) {
		whole = true
		if nodes, revision, err = s.list(ctx, whole); err != nil {
			return cluster.View{}, err
		}
	}
	view.Revision, view.Lacking = revision, lacking
	return view, s.fill(view, nodes, config.Networks[0], slices.Contains(keys, cluster.PrefixNodes))
}

// isOthers says whether a key, or one below it, may be another host's.
func (s *kubernetesStore) isOthers(key string) bool {
	for _, prefix := range []string{cluster.PrefixNodes, cluster.PrefixAlive, cluster.PrefixNames} {
		if strings.HasPrefix(key, prefix) && key != prefix+s.name {
			return true
		}
	}
	return false
}

func (s *kubernetesStore) list(ctx context.Context, whole bool) ([]corev1.Node, int64, error) {
	name := s.name
	if whole {
		name = ""
	}
	nodes, version, err := s.nodes.list(ctx, name)
	if err != nil {
		return nil, 0, s.failed("list nodes", err)
	}
	return nodes, revisionOf(version), nil
}

// revisionOf reads a resource version. Resource versions can be compared as numbers, and only
// decrease if the store behind the API was created again (KEP-5504). One that is no number is 0,
// which proves nothing.
func revisionOf(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ownNode remembers the UID of this host's Node. The error is why the host lacks subnets, if
// it does.
func (s *kubernetesStore) ownNode(nodes []corev1.Node, network cluster.Network) error {
	i := slices.IndexFunc(nodes, func(n corev1.Node) bool { return n.Name == s.name })
	if i < 0 {
		s.remember("")
		return missingNode(s.name)
	}
	s.remember(nodes[i].UID)
	_, err := ownedBy(&nodes[i], network)
	return err
}

func (s *kubernetesStore) remember(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uid = uid
}

// fill adds the nodes' keys to the view. If the records were asked for, Watch compares with
// these from now on.
func (s *kubernetesStore) fill(view cluster.View, nodes []corev1.Node, network cluster.Network, asked bool) error {
	records := map[string]cluster.Value{}
	for i := range nodes {
		n := &nodes[i]
		if value, ok := recordOf(n, network); ok {
			value.Revision = view.Revision
			records[n.Name] = value
			view.Keys[cluster.PrefixNodes+n.Name] = value
		}
		view.Keys[cluster.PrefixNames+n.Name] = cluster.Value{Data: []byte(n.Name), Revision: view.Revision}
		if isReady(n) {
			view.Keys[cluster.PrefixAlive+n.Name] = cluster.Value{Data: []byte("{}"), Revision: view.Revision}
		}
		owned, _ := ownedBy(n, network) // the record has the error
		for _, o := range owned {
			if err := putJSON(view, cluster.ClaimKey(o.Network, o.Subnet), map[string]string{"node": n.Name, "nonce": o.Nonce}); err != nil {
				return err
			}
		}
	}
	if asked {
		s.mu.Lock()
		s.had, s.listed = records, view.Revision
		s.mu.Unlock()
	}
	return nil
}

// Commit writes this host's record, or that it has left, into the annotation. It refuses
// all other keys: the control plane writes those. It does not check the conditions, since no
// other host writes these keys; only the Node itself must still be the one that was read.
func (s *kubernetesStore) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	for _, w := range txn.Then {
		if err := s.mayWrite(w); err != nil {
			return false, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for _, w := range txn.Then {
		note, err := annotationOf(w.Data)
		if err != nil {
			return false, err
		}
		s.mu.Lock()
		uid := s.uid
		s.mu.Unlock()
		err = s.nodes.annotate(ctx, s.name, uid, note)
		if apierrors.IsConflict(err) {
			return false, nil
		}
		if err != nil {
			return false, s.failed("write the annotation "+nodeAnnotation+" of node "+s.name, err)
		}
	}
	return true, nil
}

func (s *kubernetesStore) mayWrite(w cluster.Write) error {
	other, isNode := strings.CutPrefix(w.Key, cluster.PrefixNodes)
	switch {
	case isNode && other == s.name:
		return nil
	case isNode:
		return fmt.Errorf("node %s can only be removed in Kubernetes: kubectl delete node %s: %w", other, other, cluster.ErrReadOnly)
	case w.Key == cluster.KeyConfig:
		return fmt.Errorf("the configuration is the file %s, or the ConfigMap that it comes from; change that: %w", s.config, cluster.ErrReadOnly)
	}
	return fmt.Errorf("subnets are given by Kubernetes (Node.spec.podCIDRs): %w", cluster.ErrReadOnly)
}

// Watch reports nodes whose records have changed; a Node changes far more often than that. If
// this host's own record has changed, it returns errChanged.
func (s *kubernetesStore) Watch(ctx context.Context, _ string, after int64, changed func([]cluster.Change)) error {
	config, err := s.readConfig()
	if err != nil {
		return err
	}
	version := strconv.FormatInt(after, 10)
	for {
		began := time.Now()
		version, err = s.follow(ctx, version, config.Networks[0], changed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case time.Since(began) < time.Second:
			return s.failed("watch nodes", errors.New("the watch ends as soon as it has begun"))
		}
		if err := s.answers(ctx); err != nil {
			return err
		}
	}
}

// answers is an error if the API does not answer. client-go ends a watch without an error if
// it could not connect, or the connection has timed out.
func (s *kubernetesStore) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, _, err := s.list(ctx, false)
	return err
}

// follow is one watch, which a server ends after half an hour or so. It returns the resource
// version from which to go on.
func (s *kubernetesStore) follow(ctx context.Context, version string, network cluster.Network, changed func([]cluster.Change)) (string, error) {
	stream, err := s.nodes.watch(ctx, version)
	if err != nil {
		return version, s.failed("watch nodes", err)
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			err := apierrors.FromObject(event.Object)
			if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return version, errChanged
			}
			return version, s.failed("watch nodes", err)
		}
		node, ok := event.Object.(*corev1.Node)
		if !ok {
			continue // an object that this release does not know
		}
		version = node.ResourceVersion
		if event.Type == watch.Bookmark {
			continue
		}
		change, isNew := s.changeOf(node, event.Type == watch.Deleted, network)
		switch {
		case isNew && node.Name == s.name:
			return version, errChanged
		case isNew:
			changed([]cluster.Change{change})
		}
	}
	return version, nil
}

// changeOf is the change of a record that an event brings, if any.
func (s *kubernetesStore) changeOf(n *corev1.Node, deleted bool, network cluster.Network) (cluster.Change, bool) {
	value, listed := recordOf(n, network)
	if deleted || !listed {
		value, listed = cluster.Value{}, false
	}
	revision := revisionOf(n.ResourceVersion)
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision != 0 && revision <= s.listed {
		return cluster.Change{}, false // the list is newer
	}
	had, known := s.had[n.Name]
	if listed == known && sameValue(had, value) {
		return cluster.Change{}, false
	}
	if listed {
		s.had[n.Name] = value
	} else {
		delete(s.had, n.Name)
	}
	value.Revision = revision
	return cluster.Change{Key: cluster.PrefixNodes + n.Name, Value: value}, true
}

func sameValue(a, b cluster.Value) bool {
	return slices.Equal(a.Data, b.Data) && fmt.Sprint(a.Err) == fmt.Sprint(b.Err)
}

// Announce writes nothing: the kubelet reports that a node is alive. It only waits for ctx to
// end.
func (s *kubernetesStore) Announce(ctx context.Context, _ string, _ []byte, given func()) error {
	given()
	<-ctx.Done()
	return ctx.Err()
}

func (s *kubernetesStore) failed(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", s.Describe(), what, s.nodes.explain(err))
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
