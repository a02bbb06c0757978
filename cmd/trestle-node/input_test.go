package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/internal/cli"
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
		{"nodde", cli.Wrong, `unknown command "nodde" for "` + calledAs() + `"`},
		{"node undrian", cli.Wrong, `unknown command "undrian" for "` + calledAs() + ` node"; is it undrain?`},
		{"node", 0, ""},
		{"cluster nodes --file=", cli.Wrong, "--file: empty; give it a value, or leave it out"},
		{"node status --peers", cli.Wrong, "unknown flag: --peers; see"},
		{"node status now", cli.Wrong, `and "now" is given`},
		{"cluster reserve pods", cli.Wrong, `"pods" is given`},
		{"cluster init --subnet-len x", cli.Wrong, `--subnet-len: "x" is not a number`},
		{"cluster init --pool x", cli.Wrong, `--pool: "x" is not a prefix`},
		{"cluster init --pool 10.40.0.0/16 --backend udp", cli.Wrong, `backend: "udp"`},
		{"node join --address x", cli.Wrong, "--address"},
		{"cluster nodes --etcd 192.0.2.1:2379", cli.Wrong, "begins with neither http:// nor https://"},
		{"cluster nodes --etcd https://192.0.2.1:2379 --ca " + none, cli.Wrong, "etcd.ca: open " + none},
		{"cluster nodes --etcd http://192.0.2.1:2379 --user u --password-file " + open, cli.Wrong, "can be read by others"},
		{"cluster nodes --kubeconfig " + none, cli.Wrong, "kubernetes.kubeconfig " + none},
		{"cluster nodes --file " + none, cli.Wrong, none + ": no such file or directory; write all hosts into it (trestle cluster init --node …), or name another store: " +
			"--etcd, --kubeconfig or --file, or in /etc/trestle/node.json (trestle node join)"},
		{"cluster nodes --file " + bad, cli.Wrong, bad + ": config: network pods: no pool"},
		{"cluster nodes --file " + wrongType, cli.Wrong, wrongType + ": config: networks: plugins: a list stands where an object belongs"},
		{"cluster config set --file " + good + " " + none, cli.Wrong, none},
		{"cluster config set --file " + good + " " + bad, cli.Wrong, "config: network pods: no pool"},
		{"cluster reserve pods x --file " + good, cli.Wrong, `"x" is not a subnet; write it like 10.40.7.0/24`},
		{"cluster release --file " + good, cli.Wrong, "--node-is-dead"},
		{"cluster import-flannel --file " + good, cli.Wrong, "--etcd is missing"},
		{"cluster reserve pods 10.40.7.0/24 --file " + good, cli.Failed, "does not list this host"},
		{"cluster reserve pods 10.41.7.0/24 --file " + good, cli.Failed, "10.41.7.0/24"},
		{"cluster release --node-is-dead nobody --file " + good, cli.Failed, "node nobody: unknown"},
	} {
		root := newRootCommand()
		root.SetArgs(strings.Fields(test.args))
		root.SetOut(io.Discard)
		err := root.ExecuteContext(t.Context())
		if cli.ExitCode(err) != test.code || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q with exit status %d", test.args, err, test.want, test.code)
		}
	}
}
