package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// TestUnchangedFile: a long list costs its parsing when it changes, and not at each
// heartbeat; one that cannot be read is an error each time.
func TestUnchangedFile(t *testing.T) {
	const nodes, few = 300, 300 // to parse it takes thousands
	var list []string
	for i := range nodes {
		list = append(list, fmt.Sprintf(`{"name": "n%d", "underlay": ["10.1.%d.%d/16"], "subnets": {"pods": ["10.64.%d.%d/28"]}}`, i, i/250, 1+i%250, i/16, i%16*16))
	}
	document := func(list []string) string {
		return `{"networks": [{"name": "pods", "ipv4": {"pool": "10.64.0.0/16", "subnetLen": 28}}], "nodes": [` + strings.Join(list, ",\n") + `]}`
	}
	path := filepath.Join(t.TempDir(), "cluster.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store := openFile(path)
	got := func() int {
		t.Helper()
		view, err := store.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := len(cluster.NewListing(view).Nodes)
		clear(view.Keys) // it is the asker's
		return n
	}
	write(document(list))
	if n := got(); n != nodes {
		t.Fatalf("got %d hosts, want %d", n, nodes)
	}
	allocations := testing.AllocsPerRun(5, func() {
		if _, err := store.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > few {
		t.Errorf("got %v allocations for a file that is as it was, want %d at most", allocations, few)
	}
	write(document(list[1:]))
	if n := got(); n != nodes-1 {
		t.Errorf("one less: got %d hosts, want %d", n, nodes-1)
	}
	write("{")
	for range 2 {
		if _, err := store.Get(t.Context()); err == nil {
			t.Error("half a list: got no error")
		}
	}
	write(document(list[1:]))
	if n := got(); n != nodes-1 {
		t.Errorf("as before: got %d hosts, want %d", n, nodes-1)
	}
}
