package hosts

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// listPath is what the agent writes for the runtime.
const listPath = "/etc/cni/net.d/10-pods.conflist"

// TestListKeys: the list has the configuration's version and keys, and a container's port is
// mapped by them; a change rewrites the list, and one with a key that the agent decides changes
// nothing.
func TestListKeys(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := alone(l)
	plain := h.MustRun("cat", "/etc/trestle/cluster.json")
	with := func(keys string) string {
		return strings.Replace(plain, `"name": "pods",`, `"name": "pods", `+keys+`,`, 1)
	}
	h.Write("/etc/trestle/cluster.json", with(`"cniVersion": "1.1.0", "plugins": {"portmap": {"backend": "iptables"},
		"bridge": {"ipv6LinkLocal": false, "ipam": {"statusWhenFull": "unavailable"}}, "tuning": {}}`))
	agent := l.Agent(h, lab.Settings{"name": "a", "heartbeat": "2s"})
	l.Ready(h, 0)

	list := h.MustRun("cat", listPath)
	n, c := h.Network(list), h.Container("c1")
	if len(n.List.Plugins) != 3 || n.List.CNIVersion != "1.1.0" || !strings.Contains(list, `"unavailable"`) {
		t.Errorf("got the list\n%s", list)
	}
	attachment := c.Attachment()
	attachment.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
	if _, err := n.Add(attachment); err != nil {
		t.Fatal(err)
	}
	if rules := h.MustRun("iptables-save", "-t", "nat"); !strings.Contains(rules, "--dport 8080") {
		t.Errorf("got\n%s\nwant the port in iptables", rules)
	}
	if got := c.MustRun("ip", "-6", "address", "show", "dev", "eth0"); got != "" {
		t.Errorf("got %s, want no link-local address", got)
	}
	if err := n.Status(); err != nil {
		t.Error(err)
	}

	h.Write("/etc/trestle/cluster.json", with(`"plugins": {"bridge": {"mtu": 1400}}`))
	l.Await(h, "the key refused", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, "network pods: plugins.bridge.mtu: 1400 cannot be set here") && len(s.Subnets) == 1
	})
	if got := h.MustRun("cat", listPath); got != list {
		t.Errorf("got the list\n%s\nwant that of before", got)
	}
	h.Write("/etc/trestle/cluster.json", plain)
	h.MustRun("sh", "-c", "until grep -q '\"cniVersion\": \"1.0.0\"' "+listPath+"; do sleep 0.05; done")
	if list = h.MustRun("cat", listPath); strings.Contains(list, "iptables") || strings.Contains(list, "tuning") {
		t.Errorf("got the list\n%s\nwant it without the keys", list)
	}
	if err := h.Network(list).Del(attachment); err != nil { // by the list that is there by then
		t.Error(err)
	}
	if rules := h.MustRun("iptables-save", "-t", "nat"); strings.Contains(rules, "8080") {
		t.Errorf("got\n%s\nwant the port gone", rules)
	}
	wrongInput(t, agent)
}

// wrongInput: a mistake in a file that the user wrote ends each command with exit status 2 and
// the file's name, and so does that there is none.
func wrongInput(t *testing.T, a *lab.Agent) {
	t.Helper()
	a.Kill()
	for _, test := range []struct{ settings, list, want string }{
		{`{"nam": "a"}`, "", `/etc/trestle/node.json: json: unknown field "nam"`},
		{"", `{"networks": []}`, "/etc/trestle/cluster.json: config: networks: there is none"},
		{"", "", "/etc/trestle/cluster.json: no such file or directory; write all hosts into it (trestle cluster init --node …), or name another store"},
	} {
		for path, content := range map[string]string{"node.json": test.settings, "cluster.json": test.list} {
			if a.MustRun("rm", "-f", "/etc/trestle/"+path); content != "" {
				a.Write("/etc/trestle/"+path, content)
			}
		}
		if out := a.Node("cluster", "nodes"); out.Code != 2 || !strings.Contains(out.Stderr, test.want) {
			t.Errorf("cluster nodes: got %v, want %q with exit status 2", out, test.want)
		}
		if out := a.Node("node", "run"); test.settings != "" && (out.Code != 2 || !strings.Contains(out.Stderr, test.want)) {
			t.Errorf("node run: got %v, want %q with exit status 2", out, test.want)
		}
	}
}
