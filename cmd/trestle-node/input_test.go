package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExitCodes: 2 for a mistake in the request or in a file that it names, 1 for what fails
// although the request is right.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const networks = `{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16"}, "plugins": {"portmap": {"backend": "iptables"}}}]}`
	good, bad, none := write("good", networks), write("bad", `{"networks": [{"name": "pods"}]}`), filepath.Join(dir, "none")
	wrongType := write("type", strings.Replace(networks, `{"portmap": {"backend": "iptables"}}`, `["portmap"]`, 1))
	open := write("password", "secret")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"nodde", exitInput, `unknown command "nodde" for "` + calledAs() + `"`},
		{"node undrian", exitInput, `unknown command "undrian"`},
		{"node status --peers", exitInput, "unknown flag: --peers; see"},
		{"node status now", exitInput, `and "now" is given`},
		{"cluster reserve pods", exitInput, `"pods" is given`},
		{"cluster init --subnet-len x", exitInput, "--subnet-len"},
		{"cluster init --pool x", exitInput, `--pool: "x" is not a prefix`},
		{"cluster init --pool 10.40.0.0/16 --backend udp", exitInput, `backend: "udp"`},
		{"node join --address x", exitInput, "--address"},
		{"cluster nodes --etcd 192.0.2.1:2379", exitInput, "begins with neither http:// nor https://"},
		{"cluster nodes --etcd https://192.0.2.1:2379 --ca " + none, exitInput, "etcd.ca: open " + none},
		{"cluster nodes --etcd http://192.0.2.1:2379 --user u --password-file " + open, exitInput, "can be read by others"},
		{"cluster nodes --kubeconfig " + none, exitInput, "kubernetes.kubeconfig " + none},
		{"cluster nodes --file " + none, exitInput, none + ": no such file or directory; write all hosts into it (trestle cluster init --node …), or name another store: " +
			"--etcd, --kubeconfig or --file, or in /etc/trestle/node.json (trestle node join)"},
		{"cluster nodes --file " + bad, exitInput, bad + ": config: network pods: no pool"},
		{"cluster nodes --file " + wrongType, exitInput, wrongType + ": config: networks: plugins: a list stands where an object belongs"},
		{"cluster config set --file " + good + " " + none, exitInput, none},
		{"cluster config set --file " + good + " " + bad, exitInput, "config: network pods: no pool"},
		{"cluster reserve pods x --file " + good, exitInput, `"x" is not a subnet; write it like 10.40.7.0/24`},
		{"cluster release --file " + good, exitInput, "--node-is-dead"},
		{"cluster import-flannel --file " + good, exitInput, "--etcd is missing"},
		{"cluster reserve pods 10.40.7.0/24 --file " + good, exitFailed, "does not list this host"},
		{"cluster reserve pods 10.41.7.0/24 --file " + good, exitFailed, "10.41.7.0/24"},
		{"cluster release --node-is-dead nobody --file " + good, exitFailed, "node nobody: unknown"},
	} {
		root := newRootCommand()
		root.SetArgs(strings.Fields(test.args))
		root.SetOut(io.Discard)
		err := root.ExecuteContext(t.Context())
		if err == nil || exitCode(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q with exit status %d", test.args, err, test.want, test.code)
		}
	}
}
