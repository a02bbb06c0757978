package fuzz

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// readers are files of the host's that trestle and trestle-node read, and the commands that do.
var readers = []struct {
	path, sample string
	commands     []string
}{
	{"/etc/cni/net.d/10-a.conflist", `{"cniVersion":"1.0.0","name":"n","io.trestle.node":"a","trestle":{"labels":{"a":"b"}},"plugins":[{"type":"bridge","bridge":"br0","ipam":{"type":"host-local","ranges":[[{"subnet":"10.9.0.0/24"}]]}}]}`, trestle},
	{"/etc/cni/net.d/20-b.conf", `{"cniVersion":"0.4.0","name":"o","type":"bridge","ipam":{"type":"host-local","subnet":"10.9.1.0/24"}}`, trestle},
	{"/var/lib/cni/results/n-c1-eth0", `{"kind":"cniCacheV1","containerId":"c1","ifName":"eth0","networkName":"n","netns":"/run/netns/c1","cniArgs":[["K8S_POD_NAME","p"]],
		"capabilityArgs":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"::"}]},"result":{"interfaces":[{"name":"veth0"},{"name":"eth0","mac":"0a:58:0a:09:00:02","sandbox":"/run/netns/c1"}],"ips":[{"address":"10.9.0.2/24"}]}}`, trestle},
	{"/etc/docker/daemon.json", `{"bip":"172.30.0.1/24","default-address-pools":[{"base":"172.31.0.0/16","size":24},{}]}`, []string{"trestle network create fuzz", "trestle network rm fuzz"}},
	{"/etc/containerd/config.toml", "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nconf_dir = '/etc/cni/net.d'\n", trestle},
	{"/run/trestle/node/status.json", `{"id":"a","name":"n","state":"ready","peers":[{"name":"b","underlay":["192.0.2.9/24"],"subnets":[{"subnet":"10.9.4.0/24"}],"way":"vxlan"}],"pid":1}`, node},
	{"/etc/trestle/node.json", `{"name":"a","file":"/etc/trestle/cluster.json","address":"192.0.2.1","timeout":"1s"}`, node},
	{"/etc/trestle/cluster.json", `{"networks":[{"name":"pods","ipv4":{"pool":"10.40.0.0/16","subnetLen":24}}],"nodes":[{"name":"a","underlay":["192.0.2.1/24"],"subnets":{"pods":["10.40.0.0/24"]}}]}`, node},
}

var (
	trestle = []string{"trestle ls --json", "trestle network ls", "trestle ip ls", "trestle validate", "trestle doctor", "trestle report -"}
	node    = []string{"trestle-node node status", "trestle-node node status --json", "trestle-node cluster nodes", "trestle-node cluster subnets", "trestle-node cluster config get"}
)

// FuzzHostFile puts anything into one of the host's files that trestle and trestle-node read.
// They say what is wrong with it, or go without it, and change nothing.
func FuzzHostFile(f *testing.F) {
	p := newPlace(f)
	for i, r := range readers {
		f.Add(uint8(i), []byte(r.sample), uint64(0))
		f.Add(uint8(i), []byte(r.sample), uint64(i+1))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte, seed uint64) {
		r := readers[int(which)%len(readers)]
		if seed != 0 {
			data = []byte(mutate(string(data), random(seed)))
		}
		before := p.trace(t)
		p.write(t, r.path, data)
		for _, command := range r.commands {
			p.mustNotFall(t, strings.Fields(command), r.path, data)
		}
		p.write(t, r.path, nil)
		p.leaves(t, before, "reading "+r.path)
	})
}

// write makes the file, or takes it away where there is nothing to write.
func (p place) write(t *testing.T, path string, data []byte) {
	t.Helper()
	err := p.Do(func() error {
		if data == nil {
			return os.Remove(path)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// patience is for a command that reads a file.
const patience = time.Minute

// mustNotFall runs a command for people, which may refuse what it reads. It says why.
func (p place) mustNotFall(t *testing.T, command []string, path string, data []byte) {
	t.Helper()
	began := time.Now()
	output, err := p.Run(host.Command{Args: append([]string{filepath.Join(p.Dirs().Trestle, command[0])}, command[1:]...)})
	switch said := output.Stdout + output.Stderr; {
	case err != nil:
		t.Fatal(err)
	case strings.Contains(said, "goroutine ") || strings.Contains(said, "internal error"):
		t.Fatalf("%v fell over %q in %s: %s", command, data, path, said)
	case output.Code < 0 || output.Code > 3:
		t.Fatalf("%v ended with %d by %q in %s: %s", command, output.Code, data, path, said)
	case output.Code != 0 && strings.TrimSpace(said) == "":
		t.Fatalf("%v says nothing and fails by %q in %s", command, data, path)
	case time.Since(began) > patience:
		t.Fatalf("%v took %v with %q in %s", command, time.Since(began), data, path)
	}
}
