package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestReclaimAsksNoOtherIPAM: GC is not delegated to another suite's IPAM plugin, whatever the
// case of the list's keys.
func TestReclaimAsksNoOtherIPAM(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"ipam", "IPAM", "Ipam"} {
		list, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion": "1.0.0", "name": "n", "plugins": [
			{"type": "bridge", "` + key + `": {"type": "theirs"}, "CNI.dev/attachments": [], "cni.dev/valid-attachments": []}]}`))
		if err != nil {
			t.Fatal(err)
		}
		config, err := reclaimer{network: "n", scope: provablyDead}.config(list.Plugins[0])
		if err != nil {
			t.Fatal(err)
		}
		var keys map[string]any
		if err := json.Unmarshal(config, &keys); err != nil {
			t.Fatal(err)
		}
		for name := range keys {
			if lower := strings.ToLower(name); lower == "ipam" || strings.HasPrefix(lower, "cni.dev/") {
				t.Errorf("%s: got %s, want it without %s", key, config, name)
			}
		}
	}
}
