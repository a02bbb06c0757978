package runtimes_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// TestDocs: each network list in the pages goes through the life of a container, as
// libcni, which all runtimes have inside, leads it. So does each plugin that a page
// shows alone, on a bridge.
func TestDocs(t *testing.T) {
	lists := 0
	for page := range allPages(t) {
		for _, b := range pageBlocks(t, page) {
			if b.language != "json" {
				continue
			}
			lists++
			t.Run(b.place, func(t *testing.T) {
				t.Parallel()
				testDocsNetwork(t, transient(t, networkList(t, b.text)))
			})
		}
	}
	if lists < 10 {
		t.Errorf("got %d blocks of JSON in the pages, want more", lists)
	}
}

// blocks is the page's blocks in a language.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	var found []string
	for _, b := range pageBlocks(t, "docs/"+page+".md") {
		if b.language == language {
			found = append(found, b.text)
		}
	}
	return found
}

// networkList makes a list of what a page shows: a list, a plugin that comes after
// a bridge, or keys of a bridge.
func networkList(t *testing.T, text string) string {
	t.Helper()
	shown, ok := decoded(t, text).(map[string]any)
	if !ok {
		t.Fatalf("got no object in %s", text)
	}
	if shown["plugins"] != nil {
		return text
	}
	bridge := map[string]any{
		"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
		"ipam": map[string]any{"type": "host-local", "subnet": "10.9.0.0/24"},
	}
	plugins := []any{bridge, shown}
	if kind := shown["type"]; kind == nil || kind == "bridge" {
		maps.Copy(bridge, shown)
		plugins = plugins[:1]
	}
	list, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "n", "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	return string(list)
}

// transient is the list with a bridge that goes with its last container, so that
// whatever else stays shows.
func transient(t *testing.T, list string) string {
	t.Helper()
	var edited struct {
		CNIVersion string           `json:"cniVersion"`
		Name       string           `json:"name"`
		Plugins    []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(list), &edited); err != nil || edited.Plugins[0]["type"] != "bridge" {
		t.Fatalf("got %v, want a list that begins with a bridge: %s", err, list)
	}
	edited.Plugins[0]["bridgeLifetime"] = "auto"
	data, err := json.Marshal(edited)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func testDocsNetwork(t *testing.T, conflist string) {
	m := runtimes.New(t)
	for _, address := range []string{"192.0.2.7/32", "2001:db8::7/128"} { // what pages show as the host's
		m.MustRun("ip", "address", "add", address, "dev", host.Uplink)
	}
	network := m.Network(conflist)
	network.Path = []string{runtimes.BinDir}
	c := m.Container("c1")
	c.Serve("tcp", ":80")
	before := snapshot(m)

	attachment := c.Attachment()
	attachment.CapabilityArgs = map[string]any{
		"portMappings": []any{map[string]any{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}},
		"bandwidth":    map[string]any{"IngressRate": 1e7, "IngressBurst": uint32(math.MaxUint32), "EgressRate": 1e7, "EgressBurst": uint32(math.MaxUint32)},
	}
	if _, err := network.Add(attachment); err != nil {
		t.Fatal(err)
	}
	if err := network.Check(attachment); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	leadsOut := !strings.Contains(conflist, `"internal":true`)
	if err := c.Expecting(leadsOut).Ping(host.OutsideIPv4.Addr()); (err == nil) != leadsOut {
		t.Errorf("got %v, want the network to lead out: %v", err, leadsOut)
	}
	if strings.Contains(conflist, "portMappings") {
		if reply, err := m.Outside.Request("tcp", "192.0.2.2:8080"); err != nil || reply.Server != "c1" {
			t.Errorf("mapped port: got %v, %v, want c1", reply, err)
		}
	}
	if network.List.CNIVersion == "1.1.0" {
		testDocsNewCommands(t, network, attachment)
	}
	if err := network.Del(attachment); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, network.List.Name)
}

// testDocsNewCommands: STATUS, and a GC that names the container.
func testDocsNewCommands(t *testing.T, network *host.Network, alive *libcni.RuntimeConf) {
	if err := network.Status(); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	valid := []types.GCAttachment{{ContainerID: alive.ContainerID, IfName: alive.IfName}}
	if err := network.GC(&libcni.GCArgs{ValidAttachments: valid}); err != nil {
		t.Errorf("GC: %v", err)
	}
	if err := network.Check(alive); err != nil {
		t.Errorf("CHECK after GC: %v", err)
	}
}

// TestDocsKubernetesInstall runs the script of the DaemonSet, with another place
// for the host's directories and an API that knows of one node: the network list
// that it writes is the page's.
func TestDocsKubernetesInstall(t *testing.T) {
	m := runtimes.New(t)
	const dir = kubernetesDir
	script := strings.NewReplacer("/host/", dir+"/host/", "/trestle/", m.Dirs().Trestle+"/", "/var/run/secrets/", dir+"/secrets/").
		Replace(installScript(t))
	m.WriteFile(dir+"/install", script)
	m.WriteFile(dir+"/secrets/kubernetes.io/serviceaccount/token", "secret")
	m.MustRun("mkdir", "-p", dir+"/host/opt/cni/bin", dir+"/host/etc/cni/net.d")
	const node = `{ "kind": "Node", "spec": {\n  "podCIDR": "10.244.1.0/24",\n  "podCIDRs": [\n "10.244.1.0/24",\n "fd00:10:244:1::/64"\n ] } }\n`
	for _, failing := range []struct{ curl, says string }{
		{"echo 'curl: (28) timed out' >&2; exit 28", "the API says nothing of node n1"},
		{`printf '{ "kind": "Node", "spec": {} }'`, "node n1 has no podCIDRs yet"},
	} {
		output := runInstall(t, m, failing.curl)
		if output.Code == 0 || !strings.Contains(output.Stderr, failing.says) {
			t.Errorf("%s: got exit status %d, %q, want %q", failing.curl, output.Code, output.Stderr, failing.says)
		}
		if got := m.ReadDir(dir + "/host/opt/cni/bin"); len(got) > 0 {
			t.Errorf("%s: got %v installed, want nothing", failing.curl, got)
		}
	}
	for range 2 { // the second time over its own files
		if output := runInstall(t, m, "printf '"+node+"'"); output.Code != 0 {
			t.Fatalf("the script: exit status %d: %s", output.Code, output.Stderr)
		}
	}
	want := slices.Sorted(slices.Values(append(host.Plugins(), "trestle")))
	if got := m.ReadDir(dir + "/host/opt/cni/bin"); !slices.Equal(got, want) {
		t.Errorf("got %v installed, want %v", got, want)
	}
	if links := m.MustRun("stat", "--format", "%h", dir+"/host/opt/cni/bin/bridge"); links != fmt.Sprintf("%d\n", len(host.Plugins())) {
		t.Errorf("got a plugin with %s links, want one file with %d names", strings.TrimSpace(links), len(host.Plugins()))
	}
	written := m.MustRun("cat", dir+"/host/etc/cni/net.d/10-k8s.conflist")
	if diff := cmp.Diff(decoded(t, blocks(t, "kubernetes", "json")[0]), decoded(t, written)); diff != "" {
		t.Errorf("the list that the script writes is not the page's (-page +script):\n%s", diff)
	}
	if output := m.MustRun(dir + "/host/opt/cni/bin/bridge"); output != "" {
		t.Errorf("the installed bridge printed %q without a command, want nothing on standard output", output)
	}
}

const kubernetesDir = "/var/lib/runtimes/kubernetes"

// runInstall runs the script with a curl of ours.
func runInstall(t *testing.T, m *runtimes.Machine, curl string) host.Output {
	t.Helper()
	m.WriteFile(kubernetesDir+"/bin/curl", "#!/bin/sh\n"+curl+"\n")
	m.MustRun("chmod", "+x", kubernetesDir+"/bin/curl")
	output, err := m.Run(host.Command{
		Args: []string{"sh", kubernetesDir + "/install"},
		Env: []string{
			"PATH=" + kubernetesDir + "/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NODE_NAME=n1", "KUBERNETES_SERVICE_HOST=192.0.2.10",
			"KUBERNETES_SERVICE_PORT=443", `CLUSTER_CIDRS="10.244.0.0/16", "fd00:10:244::/48"`,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// installScript is the value of the ConfigMap's key "install".
func installScript(t *testing.T) string {
	t.Helper()
	_, rest, found := strings.Cut(blocks(t, "kubernetes", "yaml")[0], "  install: |\n")
	if !found {
		t.Fatal("docs/kubernetes.md has no script install")
	}
	var script strings.Builder
	for line := range strings.Lines(rest) {
		if line == "---\n" {
			break
		}
		script.WriteString(strings.TrimPrefix(line, "    "))
	}
	return script.String()
}

func decoded(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return value
}
