package runtimes_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

// TestDocsSymptoms: the messages of runtimes that docs/troubleshooting.md lists are
// what these runtimes say, literally, where somebody makes that mistake.
func TestDocsSymptoms(t *testing.T) {
	runtimes.Need(t, "containerd", "runc", "podman")
	const (
		container   = "ctr run --rm --cni localhost/demo:latest c /bin/busybox true\n"
		pod         = "podman run --rm --network trestle localhost/demo true\n"
		podmanLists = "mkdir -p /etc/containers/containers.conf.d /etc/containers/cni.d\n" +
			`printf '[network]\nnetwork_backend = "cni"\ncni_plugin_dirs = ["/opt/cni/bin"]\nnetwork_config_dir = "/etc/containers/cni.d"\n' ` +
			">/etc/containers/containers.conf.d/trestle.conf\n"
		newest = "sed s/1.0.0/1.1.0/ conflist/10-trestle.conflist >"
	)
	provoked := map[string]string{ // by what is in the table
		"no network config found in /etc/cni/net.d: cni plugin not initialized": "rm /etc/cni/net.d/*\n" + container,
		`failed to find plugin "bridge" in path […]`:                            "rm /opt/cni/bin/bridge /usr/lib/cni/bridge\n" + container,
		`unsupported CNI result version "1.1.0"`:                                newest + "/etc/cni/net.d/10-trestle.conflist\n" + container,
		"failed to load TOML: /etc/containerd/config.toml: (10, 2): duplicated tables": `printf '[plugins."io.containerd.grpc.v1.cri".cni]\n' >>/etc/containerd/config.toml` +
			"\nsystemctl restart containerd\n",
		"unable to find network with name or ID trestle: network not found": podmanLists + pod,
		"Failed to load cached network config: network trestle not found in CNI cache, falling back to loading network trestle from disk": podmanLists +
			newest + "/etc/containers/cni.d/10-trestle.conflist\n" + pod,
		`could not find "netavark" in one of […]`: "printf netavark >/var/lib/containers/storage/defaultNetworkBackend\npodman info\n",
		`plugin type="bridge" failed (add): …`:    "ip link add trestle0 type veth peer name other\n" + container,
	}
	for _, message := range runtimesSay(t) {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			script := provoked[message]
			if script == "" {
				t.Fatal("no test provokes it")
			}
			m := runtimes.NewDebian(t)
			before := "cd /usr/local/src; git clone trestle; cd trestle\n" + withTrestle + withImage +
				"systemctl restart containerd; podman save localhost/demo | ctr image import -\n"
			if output, err := m.Shell("exec 2>&1\n" + before); err != nil || output.Code != 0 {
				t.Fatalf("before: %v, exit status %d: %s", err, output.Code, output.Stdout)
			}
			output, err := m.Shell("exec 2>&1; set +e\n" + script)
			if err != nil || !printed("…\n…"+message+"…\n…\n").MatchString(output.Stdout) {
				t.Errorf("got %v,\n%s", err, output.Stdout)
			}
		})
	}
}

// runtimesSay is the messages of the table "What the runtime says".
func runtimesSay(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## What the runtime says\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var messages []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([^`]*)` \\|").FindAllStringSubmatch(section, -1) {
		messages = append(messages, match[1])
	}
	return messages
}
