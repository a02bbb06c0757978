package conflist_test

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/conflist"
)

func TestFilesAreNetworkLists(t *testing.T) {
	names, err := fs.Glob(conflist.Files, "*")
	if err != nil {
		t.Fatal(err)
	}
	networks, bridges := map[string]string{}, map[string]string{}
	for _, name := range names {
		list, bridge := read(t, name)
		if other := networks[list.Name]; other != "" {
			t.Errorf("%s: network %s is that of %s too", name, list.Name, other)
		}
		if other := bridges[bridge.Bridge]; other != "" {
			t.Errorf("%s: bridge %s is that of %s too", name, bridge.Bridge, other)
		}
		networks[list.Name], bridges[bridge.Bridge] = name, name
	}
	if len(names) == 0 {
		t.Error("got no lists, want some")
	}
}

// TestDefaultComesFirst: somebody copies all lists, and a runtime that takes the
// first file of the directory shall take the default network.
func TestDefaultComesFirst(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, conflist.Files); err != nil {
		t.Fatal(err)
	}
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"}) // sorted by go-cni and ocicni thereafter
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	if got := filepath.Base(files[0]); got != conflist.Default {
		t.Errorf("got %s first of %v, want %s", got, files, conflist.Default)
	}
}

func TestDefaultIsDualStack(t *testing.T) {
	list, bridge := read(t, conflist.Default)
	if list.CNIVersion != "1.0.0" {
		t.Errorf("got cniVersion %s, want 1.0.0, which all runtimes can read", list.CNIVersion)
	}
	var families []bool
	for _, set := range bridge.IPAM.Ranges {
		for _, r := range set {
			if r.Subnet != r.Subnet.Masked() || !r.Subnet.Addr().IsPrivate() {
				t.Errorf("got subnet %s, want a private one without host bits", r.Subnet)
			}
			families = append(families, r.Subnet.Addr().Is4())
		}
	}
	if len(families) != 2 || families[0] == families[1] {
		t.Errorf("got ranges %v, want one of each family", bridge.IPAM.Ranges)
	}
}

type bridgeConf struct {
	Bridge string
	IPAM   struct {
		Ranges [][]struct{ Subnet netip.Prefix }
	}
}

// read parses a list as runtimes do, and its first plugin, the bridge.
func read(t *testing.T, name string) (*libcni.NetworkConfigList, bridgeConf) {
	t.Helper()
	data, err := fs.ReadFile(conflist.Files, name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var bridge bridgeConf
	if err := json.Unmarshal(list.Plugins[0].Bytes, &bridge); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return list, bridge
}
