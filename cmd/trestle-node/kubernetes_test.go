package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

func dualStack(t *testing.T) cluster.Network {
	t.Helper()
	c, err := cluster.ParseConfig([]byte(`{"networks": [{"name": "pods", "ipv4": {"pool": "10.244.0.0/16"}, "ipv6": {"pool": "fd00:10:244::/48"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return c.Networks[0]
}

func node(note string, podCIDRs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
	if note != "" {
		n.Annotations = map[string]string{nodeAnnotation: note}
	}
	return n
}

// TestNodeRecord: the record that other hosts get from a Node.
func TestNodeRecord(t *testing.T) {
	const note = `{"underlay":["192.0.2.1/24"],"mtu":1500,"mac":"02:00:00:00:00:01","newer":7}`
	for _, c := range []struct {
		name string
		node *corev1.Node
		want string // the record, or "error: " and a part of it, or "none"
	}{
		{"whole", node(note, "10.244.1.0/24", "fd00:10:244:1::/64"), `"newer":7`},
		{"families in the other order", node(note, "fd00:10:244:1::/64", "10.244.1.0/24"), `"subnets":[{"network":"pods","subnet":"10.244.1.0/24","nonce":"kubernetes"},{"network":"pods","subnet":"fd00`},
		{"name is the Node's", node(`{"id":"x","name":"x","underlay":["192.0.2.1/24"]}`, "10.244.1.0/24", "fd00:10:244:1::/64"), `"name":"n1"`},
		{"MAC is of the name", node(note, "10.244.1.0/24", "fd00:10:244:1::/64"), `"mac":"` + overlay.MAC("n1") + `"`},
		{"subnets are the Node's", node(`{"subnets":[],"underlay":["192.0.2.1/24"]}`, "10.244.1.0/24", "fd00:10:244:1::/64"), `fd00:10:244:1::/64`},
		{"no host of ours", node(""), "none"},
		{"left", node(`{"left":true}`, "10.244.1.0/24", "fd00:10:244:1::/64"), "none"},
		{"no agent", node("", "10.244.1.0/24", "fd00:10:244:1::/64"), "error: it has no annotation trestle.io/node"},
		{"nonsense", node("{", "10.244.1.0/24", "fd00:10:244:1::/64"), "error: annotation trestle.io/node: unexpected end of JSON"},
		{"no podCIDRs", node(note), "error: node n1 has no podCIDRs yet, and the network wants one of IPv4: kube-controller-manager assigns them, with --allocate-node-cidrs=true and --cluster-cidr=10.244.0.0/16"},
		{"one family", node(note, "10.244.1.0/24"), "error: node n1 has no podCIDR of IPv6, only [10.244.1.0/24]: add fd00:10:244::/48"},
		{"another cluster's", node(note, "10.245.1.0/24", "fd00:10:244:1::/64"), "error: node n1: podCIDR 10.245.1.0/24 is not within 10.244.0.0/16 of network pods"},
		{"wider than the pool", node(note, "10.0.0.0/8", "fd00:10:244:1::/64"), "error: node n1: podCIDR 10.0.0.0/8 is not within"},
		{"no prefix", node(note, "10.244.1.7/24", "fd00:10:244:1::/64"), `error: node n1: podCIDR "10.244.1.7/24" is no prefix`},
	} {
		t.Run(c.name, func(t *testing.T) {
			value, listed := recordOf(c.node, dualStack(t))
			got := string(value.Data)
			switch {
			case !listed:
				got = "none"
			case value.Err != nil:
				got = "error: " + value.Err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if value.Data == nil {
				return
			}
			if _, err := cluster.ParseNode(value.Data); err != nil {
				t.Error(err)
			}
			if back, err := annotationOf(value.Data); err != nil || strings.Contains(back, "10.244") || strings.Contains(back, "n1") || strings.Contains(back, "mac") {
				t.Errorf("got annotation %s, %v, want nothing of what the Node says", back, err)
			}
		})
	}
}

// TestNodeRecordOneFamily: a podCIDR of a family without a pool is no error.
func TestNodeRecordOneFamily(t *testing.T) {
	network := dualStack(t)
	network.IPv6 = nil
	owned, err := ownedBy(node("", "10.244.1.0/24", "fd00:10:244:1::/64"), network)
	want := cluster.Owned{Network: "pods", Subnet: netip.MustParsePrefix("10.244.1.0/24"), Nonce: "kubernetes"}
	if err != nil || len(owned) != 1 || owned[0] != want {
		t.Errorf("got %v, %v, want %v", owned, err, want)
	}
}

// storeAt is a store at an API with this URL, with more keys for the kubeconfig's cluster.
func storeAt(t *testing.T, url, more string) *kubernetesStore {
	t.Helper()
	dir := t.TempDir()
	kubeconfig, config := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "cluster.json")
	for path, content := range map[string]string{
		config: `{"networks": [{"name": "pods", "ipv4": {"pool": "10.244.0.0/16"}}]}`,
		kubeconfig: fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "x",
"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "users": [{"name": "x", "user": {"token": "t"}}],
"clusters": [{"name": "x", "cluster": {"server": %q%s}}]}`, url, more),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openKubernetes(settings{
		Name: "n1", Timeout: duration{20 * time.Second}, Kubernetes: &kubernetesSettings{Kubeconfig: kubeconfig, Config: config},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // nothing is under way
	return s
}

// nobodyListens is a URL whose port is the test's, so that no other program can come to have it.
func nobodyListens(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // it is only bound
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address, ok := name.(*unix.SockaddrInet4)
	if !ok {
		t.Fatalf("bound to %v, want an address of IPv4", name)
	}
	return fmt.Sprintf("http://127.0.0.1:%d", address.Port)
}

// TestKubernetesErrors: errors of the API say what is wrong and what to do.
func TestKubernetesErrors(t *testing.T) {
	refuse := func(code int, reason string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(metav1.Status{ // the test fails otherwise
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
				Status:   metav1.StatusFailure, Reason: metav1.StatusReason(reason), Code: int32(code), Message: reason + " here",
			})
		}
	}
	forbidden := httptest.NewServer(refuse(http.StatusForbidden, "Forbidden"))
	defer forbidden.Close()
	unauthorized := httptest.NewServer(refuse(http.StatusUnauthorized, "Unauthorized"))
	defer unauthorized.Close()
	secure := httptest.NewTLSServer(refuse(http.StatusForbidden, "Forbidden"))
	defer secure.Close()
	gone := nobodyListens(t)
	ca := filepath.Join(t.TempDir(), "ca")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, data, 0o600); err != nil {
		t.Fatal(err)
	}
	trusted := fmt.Sprintf(`, "certificate-authority": %q`, ca)
	for _, c := range []struct{ name, url, more, want string }{
		{"forbidden", forbidden.URL, "", "Forbidden here; give it a ClusterRole with the rule {apiGroups: [\"\"], resources: [nodes], verbs: [get, list, watch, patch]}"},
		{"unauthorized", unauthorized.URL, "", "its token or certificate is another cluster's, or has expired"},
		{"nobody there", gone, "", "connection refused; is it up, and can this host reach it"},
		{"another authority", secure.URL, "", "certificate signed by unknown authority; kubeconfig "},
		{"the right authority", secure.URL, trusted, "Forbidden here"},
		{"another name", secure.URL, trusted + `, "tls-server-name": "other"`, "has another certificate authority than the API server, or a name that its certificate does not have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := storeAt(t, c.url, c.more)
			_, err := s.Get(context.Background(), cluster.KeyConfig, cluster.PrefixNodes)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "Kubernetes at "+c.url) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestKubernetesWritesItsOwn: a host writes only its own record; the errors say how to change the
// rest in Kubernetes.
func TestKubernetesWritesItsOwn(t *testing.T) {
	s := storeAt(t, "http://127.0.0.1:1", "")
	for key, want := range map[string]string{
		cluster.KeyConfig:          "change that",
		cluster.KeyFrozen:          "Node.spec.podCIDRs",
		cluster.PrefixNodes + "n2": "kubectl delete node n2",
	} {
		_, err := s.Commit(context.Background(), cluster.Txn{Then: []cluster.Write{{Key: key}}})
		if !errors.Is(err, cluster.ErrReadOnly) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", key, err, want)
		}
	}
}

// TestKubernetesSettings: a pod's settings from its environment; more than one store is refused.
func TestKubernetesSettings(t *testing.T) {
	t.Setenv(nodeNameVariable, "n7")
	t.Setenv(hostIPsVariable, "192.0.2.7,2001:db8::7")
	s, err := parseSettings([]byte(`{"kubernetes": {}}`))
	if err != nil || s.Name != "n7" || len(s.addresses()) != 2 || s.Kubernetes.Config != clusterPath {
		t.Errorf("got %+v, %v, want n7 with two addresses", s, err)
	}
	if s, err = parseSettings([]byte(`{"kubernetes": {}, "name": "n8", "address": "192.0.2.8"}`)); err != nil || s.Name != "n8" || len(s.addresses()) != 1 {
		t.Errorf("got %+v, %v, want what node.json says", s, err)
	}
	if _, err = parseSettings([]byte(`{"kubernetes": {}, "file": "/x"}`)); err == nil || !strings.Contains(err.Error(), "a host has one store") {
		t.Errorf("got %v, want one store", err)
	}
	if s, err = parseSettings([]byte(`{}`)); err != nil || s.Name == "n7" || len(s.addresses()) != 0 {
		t.Errorf("got %+v, %v, want nothing of a pod's where Kubernetes is not the store", s, err)
	}
	t.Setenv(hostIPsVariable, "x")
	if _, err = parseSettings([]byte(`{"kubernetes": {}}`)); err == nil || !strings.Contains(err.Error(), "$HOST_IPS") {
		t.Errorf("got %v, want a word about $HOST_IPS", err)
	}
}

// nodesAPI answers each list with these Nodes and this resource version.
func nodesAPI(t *testing.T, version string, nodes ...*corev1.Node) string {
	t.Helper()
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, n := range nodes {
		list.Items = append(list.Items, *n)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list) // the test fails otherwise
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestKubernetesWatchTellsAll: a change that another Get has seen before the watch is reported all
// the same, and one that is older than the list is not.
func TestKubernetesWatchTellsAll(t *testing.T) {
	before, after := node(`{"mtu":1500}`, "10.244.1.0/24"), node(`{"mtu":1400}`, "10.244.1.0/24")
	before.Name, before.ResourceVersion = "n2", "100"
	after.Name, after.ResourceVersion = "n2", "110"
	s := storeAt(t, nodesAPI(t, "120", after), "")
	network := cluster.Network{Name: "pods", IPv4: dualStack(t).IPv4}
	s.had["n2"], _ = recordOf(before, network)
	s.listed = 105
	if _, err := s.Get(context.Background(), cluster.PrefixAlive); err != nil {
		t.Fatal(err)
	}
	if _, told := s.changeOf(after, false, network); !told {
		t.Error("signs of life were looked at, and the change of a record is lost")
	}
	if _, err := s.Get(context.Background(), cluster.PrefixNodes); err != nil {
		t.Fatal(err)
	}
	if change, told := s.changeOf(before, true, network); told {
		t.Errorf("got %v, which is older than the list", change)
	}
}

// TestSeeLooksOnce: in a store without signs of life they are not read at each heartbeat, which
// would list all Nodes.
func TestSeeLooksOnce(t *testing.T) {
	s := storeAt(t, nodesAPI(t, "120"), "")
	a := &agent{listing: &cluster.Listing{Nodes: map[string]cluster.Node{"n2": {}}}}
	if err := a.see(context.Background(), s); err != nil || a.looked != 1 {
		t.Errorf("got %d, %v, want that the host was looked at", a.looked, err)
	}
}
