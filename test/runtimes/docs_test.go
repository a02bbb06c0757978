package runtimes_test

import (
	"encoding/json"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// TestDocs: each network list in the pages on runtimes goes through the life of a
// container, as libcni, which all of those runtimes have inside, leads it.
func TestDocs(t *testing.T) {
	for _, page := range []string{"containerd", "cri-o", "podman", "nerdctl", "kubernetes"} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			lists := blocks(t, page, "json")
			if len(lists) != 1 {
				t.Fatalf("got %d network lists, want one", len(lists))
			}
			testDocsNetwork(t, lists[0])
		})
	}
}

// blocks is the page's blocks in a language.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page + ".md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, match := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllSubmatch(text, -1) {
		found = append(found, string(match[1]))
	}
	return found
}

func testDocsNetwork(t *testing.T, conflist string) {
	m := runtimes.New(t)
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
	if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
	if strings.Contains(conflist, "portMappings") {
		if reply, err := m.Outside.Request("tcp", "192.0.2.2:8080"); err != nil || reply.Server != "c1" {
			t.Errorf("mapped port: got %v, %v, want c1", reply, err)
		}
	}
	if network.List.CNIVersion == "1.1.0" {
		testDocsNewVerbs(t, network, attachment)
	}
	if err := network.Del(attachment); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, network.List.Name)
}

// testDocsNewVerbs: STATUS, and a GC that names the container.
func testDocsNewVerbs(t *testing.T, network *host.Network, alive *libcni.RuntimeConf) {
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
	const dir = "/var/lib/runtimes/kubernetes"
	script := strings.NewReplacer("/host/", dir+"/host/", "/trestle/", m.Dirs().Trestle+"/", "/var/run/secrets/", dir+"/secrets/").
		Replace(installScript(t))
	m.WriteFile(dir+"/install", script)
	m.WriteFile(dir+"/secrets/kubernetes.io/serviceaccount/token", "secret")
	m.WriteFile(dir+"/bin/curl", `#!/bin/sh
printf '{ "kind": "Node", "spec": {\n  "podCIDR": "10.244.1.0/24",\n  "podCIDRs": [\n "10.244.1.0/24",\n "fd00:10:244:1::/64"\n ] } }\n'
`)
	m.MustRun("sh", "-c", "chmod +x "+dir+"/bin/curl; mkdir -p "+dir+"/host/opt/cni/bin "+dir+"/host/etc/cni/net.d")
	output, err := m.Run(host.Command{
		Args: []string{"sh", dir + "/install"},
		Env: []string{
			"PATH=" + dir + "/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NODE_NAME=n1", "KUBERNETES_SERVICE_HOST=192.0.2.10",
			"KUBERNETES_SERVICE_PORT=443", `CLUSTER_CIDRS="10.244.0.0/16", "fd00:10:244::/48"`,
		},
	})
	if err != nil || output.Code != 0 {
		t.Fatalf("the script: %v, exit status %d: %s", err, output.Code, output.Stderr)
	}
	written := m.MustRun("cat", dir+"/host/etc/cni/net.d/10-trestle.conflist")
	if diff := cmp.Diff(decoded(t, blocks(t, "kubernetes", "json")[0]), decoded(t, written)); diff != "" {
		t.Errorf("the list that the script writes is not the page's (-page +script):\n%s", diff)
	}
	if output := m.MustRun(dir + "/host/opt/cni/bin/bridge"); output != "" {
		t.Errorf("the installed bridge printed %q without a command, want nothing on standard output", output)
	}
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
