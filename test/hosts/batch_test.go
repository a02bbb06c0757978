package hosts

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// newObject is a send that makes routes or neighbours: strace shows the first of a batch.
var newObject = regexp.MustCompile(`sendto\(.*RTM_NEW(ROUTE|NEIGH)`)

// TestThousandPeers: what leads to a thousand peers, three objects each, goes to the
// kernel by the hundred, and an agent that finds it there changes nothing.
func TestThousandPeers(t *testing.T) {
	t.Parallel()
	const peers, most = 1000, 3*1000/128 + 10
	l := lab.New(t)
	h := l.Host("a")
	var nodes []string
	for i := range peers {
		nodes = append(nodes, fmt.Sprintf(`{"name": "n%d", "underlay": ["10.1.%d.%d/16"], "subnets": {"pods": ["10.64.%d.%d/28"]}}`, i, i/250, 1+i%250, i/16, i%16*16))
	}
	nodes = append(nodes, `{"name": "a", "underlay": ["203.0.113.11/24"], "subnets": {"pods": ["10.64.255.0/28"]}}`)
	h.Write("/etc/trestle/cluster.json", `{"networks": [{"name": "pods", "ipv4": {"pool": "10.64.0.0/16", "subnetLen": 28}}], "nodes": [`+strings.Join(nodes, ",\n")+`]}`)
	h.Write("/etc/trestle/node.json", `{"name": "a", "audit": "1h", "heartbeat": "1h"}`)
	agent := fmt.Sprintf(`%s/trestle-node node run & until [ "$(ip route show proto 116 | wc -l)" -gt %d ]; do sleep 0.2; done; kill -9 $!`, h.Dirs().Trestle, peers)
	_, trace, err := h.Trace(host.Strace{Syscalls: "sendto"}, host.Command{Args: []string{"timeout", "150", "sh", "-c", agent}})
	if err != nil {
		t.Fatal(err)
	}
	for show, want := range map[string]int{
		"ip route show proto 116":                       peers + 1,
		"bridge fdb show dev trestle-vx":                peers,
		"ip -6 neigh show dev trestle-vx nud permanent": peers,
	} {
		if got := strings.Count(h.MustRun("sh", "-c", show), "\n"); got != want {
			t.Errorf("%s: got %d lines, want %d", show, got, want)
		}
	}
	if got := len(newObject.FindAllString(trace.Text, -1)); got == 0 || got > most {
		t.Errorf("got %d sends for %d peers, want %d at most", got, peers, most)
	}
	again := l.Agent(h, slow(lab.Settings{"name": "a"})) // the first one was killed amidst the rest
	l.Ready(h, peers)
	again.Kill()
	h.MustRun("rm", "/run/trestle/node/status.json")
	again.Start()
	l.Ready(h, peers)
	if log := again.Kill(); strings.Contains(log, "apply what is wanted") || strings.Contains(log, "repair") {
		t.Errorf("started again over what is there it changed something:\n%s", log)
	}
}
