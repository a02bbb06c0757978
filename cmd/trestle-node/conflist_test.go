package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// writtenList is the list of a host in a network with these keys.
func writtenList(t *testing.T, keys string, forPods bool) []byte {
	t.Helper()
	config, err := cluster.ParseConfig([]byte(`{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16"}` + keys + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s := cluster.State{
		ID:     "a",
		Config: config,
		Claims: []cluster.Owned{{Network: "pods", Subnet: netip.MustParsePrefix("10.40.7.0/24")}},
	}
	list, err := conflist(s, config.Networks[0], 1450, forPods)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestConflist compares lists, byte by byte, with those in testdata: of a network without keys
// of its own as it always was, and of one with keys for each plugin. Maps have no order, and
// the list has one.
func TestConflist(t *testing.T) {
	const keys = `, "cniVersion": "1.1.0", "plugins": {"tuning": {"sysctl": {"net.core.somaxconn": "500"}}, "firewall": {}, "bandwidth": {"ingressRate": 9007199254740993, "ingressBurst": 8000},
		"portmap": {"Backend": "iptables", "capabilities": {"x": true}},
		"bridge": {"ipv6LinkLocal": false, "HAIRPINMODE": false, "ipam": {"statusWhenFull": "unavailable"}, "masquerade": {"randomFully": true}}}`
	for _, test := range []struct {
		name, keys string
		forPods    bool
	}{{"usual", "", false}, {"pods", "", true}, {"keys", keys, false}} {
		want, err := os.ReadFile(filepath.Join("testdata", "list-"+test.name+".conflist"))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if got := writtenList(t, test.keys, test.forPods); !bytes.Equal(got, want) {
				t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, want)
			}
		}
	}
}

// TestDocsOfList: the network that the page shows is one.
func TestDocsOfList(t *testing.T) {
	page, err := os.ReadFile("../../docs/hosts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "### The network's list\n")
	_, after, _ = strings.Cut(after, "```text\n")
	network, _, _ := strings.Cut(after, "```")
	config, err := cluster.ParseConfig([]byte(`{"networks": [` + network + `]}`))
	if err != nil || len(config.Networks[0].Plugins) != 3 {
		t.Errorf("got %+v, %v of\n%s", config, err, network)
	}
}

// TestMergedChangesNothing: a network's keys are merged for every list that is written, and stay
// as they are, also if one is there in two spellings.
func TestMergedChangesNothing(t *testing.T) {
	own := map[string]any{"type": "host-local"}
	entry := map[string]any{"ipam": own}
	keys := map[string]any{"Args": map[string]any{"a": 1}, "args": map[string]any{"b": 2}, "IPAM": map[string]any{"c": 3}}
	got := merged(entry, keys)
	if ipam, _ := got["ipam"].(map[string]any); len(got) != 2 || len(ipam) != 2 {
		t.Errorf("got %v, want each key once", got)
	}
	if args, _ := keys["Args"].(map[string]any); len(args) != 1 || len(own) != 1 {
		t.Errorf("got the keys %v and the entry %v, want them as they were", keys, entry)
	}
}

// TestListVersions: lists may have the versions that the plugins support, but those without CHECK.
func TestListVersions(t *testing.T) {
	all := version.All.SupportedVersions()
	if since := all[slices.Index(all, "0.4.0"):]; !slices.Equal(since, cluster.ListVersions) {
		t.Errorf("got %s, want %s", strings.Join(cluster.ListVersions, " "), strings.Join(since, " "))
	}
}

// TestOwnKeysAreRefused: whatever the agent writes into an entry that differs between hosts, or
// that it relies on, no configuration sets. What it only prefers may be set.
func TestOwnKeysAreRefused(t *testing.T) {
	mayBeSet := []string{"isDefaultGateway", "hairpinMode", "ipMasq", "capabilities.portMappings", "capabilities.bandwidth"}
	for plugin, entry := range entriesOf(cluster.State{}, cluster.Network{Name: "pods"}, 1450) {
		for _, path := range append(pathsOf(entry, ""), "type") {
			keys := `"x"`
			for _, key := range slices.Backward(strings.Split(path, ".")) {
				keys = `{"` + key + `": ` + keys + `}`
			}
			_, err := cluster.ParseConfig([]byte(`{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16"}, "plugins": {"` + plugin + `": ` + keys + `}}]}`))
			if allowed := slices.Contains(mayBeSet, path); allowed != (err == nil) {
				t.Errorf("%s.%s: got %v, may be set: %v", plugin, path, err, allowed)
			}
		}
	}
}

func pathsOf(entry map[string]any, at string) (all []string) {
	for key, value := range entry {
		if object, ok := value.(map[string]any); ok {
			all = append(all, pathsOf(object, at+key+".")...)
		} else {
			all = append(all, at+key)
		}
	}
	return all
}
