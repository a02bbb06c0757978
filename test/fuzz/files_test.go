package fuzz

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// chain is a network that leaves all kinds of files.
func chain() []object {
	bridge := soundConfig("bridge")
	delete(bridge, "runtimeConfig")
	tuning := object{"cniVersion": "1.1.0", "name": "n", "type": "tuning", "sysctl": object{"net.core.somaxconn": "512"}, "mtu": 1300}
	portmap := object{"cniVersion": "1.1.0", "name": "n", "type": "portmap", "runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}}}
	firewall := object{"cniVersion": "1.1.0", "name": "n", "type": "firewall", "ingressPolicy": "isolated"}
	return []object{bridge, tuning, portmap, firewall}
}

// FuzzFile puts anything into one of the files that an attachment has left: a record, the
// leases' index, what is known of a table. Nothing falls over it; DEL and GC leave nothing
// that the kernel knows.
func FuzzFile(f *testing.F) {
	p := newPlace(f)
	for i := range 20 { // as many as there are files
		f.Add(uint8(i), []byte([]string{"", `{"Owner":{"Network":"n","ContainerID":"c1","IfName":"eth0"},"Value":{},"trestle":{}}`}[i%2]))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		before := p.kernel(t)
		configs := chain()
		prev := ""
		for _, config := range configs {
			if prev != "" {
				config["prevResult"] = rawJSON(prev)
			}
			answer := p.Exec(p.c.Call("ADD", fmt.Sprint(config["type"]), mustJSON(config)))
			if err := answer.Err(); err != nil {
				t.Fatal(err)
			}
			prev = answer.Stdout
		}
		path := p.damage(t, int(which), data)
		slices.Reverse(configs)
		for _, config := range configs {
			config["prevResult"] = rawJSON(prev)
			p.call(t, "CHECK", fmt.Sprint(config["type"]), mustJSON(config), "")
		}
		p.trestle(t, "restore")
		for _, config := range configs {
			if !p.call(t, "DEL", fmt.Sprint(config["type"]), mustJSON(config), "") {
				t.Errorf("DEL by %s fails, where %s holds %q", config["type"], path, data)
			}
		}
		for _, config := range configs {
			delete(config, "prevResult")
			config["cni.dev/valid-attachments"] = []any{}
			if !p.exec(t, host.Call{Plugin: fmt.Sprint(config["type"]), Command: "GC", Config: mustJSON(config), Path: p.Dirs().Trestle}) {
				t.Errorf("GC by %s fails, where %s holds %q", config["type"], path, data)
			}
		}
		if diff := host.Diff(before, p.kernel(t)); diff != "" {
			t.Errorf("DEL and GC, where %s holds %q, leave\n%s", path, data, diff)
			p.cleanUp()
		}
	})
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// kernel is what the kernel knows of attachments, and the leases.
func (p place) kernel(t *testing.T) string {
	t.Helper()
	var kept []string
	for _, line := range strings.Split(p.trace(t), "\n") {
		if !strings.HasPrefix(line, "/run/trestle") && !strings.HasPrefix(line, "/run/cni") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// damage writes the data into one of the files.
func (p place) damage(t *testing.T, which int, data []byte) (path string) {
	t.Helper()
	err := p.Do(func() error {
		var paths []string
		for _, dir := range []string{"/run/trestle", "/run/cni", "/var/lib/cni/networks"} {
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				// the leases are the truth, which nothing else tells
				lease := strings.Contains(path, "/n/10.9.0.")
				if err == nil && entry.Type().IsRegular() && !lease && !strings.HasSuffix(path, "lock") {
					paths = append(paths, path)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		path = paths[which%len(paths)]
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// trestle runs a command for people, which may fail, and does not fall over.
func (p place) trestle(t *testing.T, args ...string) {
	t.Helper()
	output, err := p.Run(host.Command{Args: append([]string{filepath.Join(p.Dirs().Trestle, "trestle")}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(output.Stderr, "goroutine ") {
		t.Fatalf("trestle %v fell over: %s", args, output.Stderr)
	}
}

// FuzzList gives trestle any network list.
func FuzzList(f *testing.F) {
	p := newPlace(f)
	f.Add([]byte(mustJSON(object{"cniVersion": "1.1.0", "name": "n", "plugins": chain()})))
	f.Add([]byte(`{"plugins":[{"type":"../x"},null]}`))
	f.Fuzz(func(t *testing.T, list []byte) {
		err := p.Do(func() error {
			if err := os.MkdirAll("/run/fuzz/lists", 0o755); err != nil {
				return err
			}
			return os.WriteFile("/run/fuzz/lists/1.conflist", list, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		p.trestle(t, "gc", "--lists", "/run/fuzz/lists", "--plugins", p.Dirs().Trestle)
	})
}

// FuzzAnswer has an IPAM plugin of another program answer anything.
func FuzzAnswer(f *testing.F) {
	p := newPlace(f)
	script := "#!/bin/sh\ncat >/dev/null\ncat /run/fuzz/answer\nexit $(cat /run/fuzz/status)\n"
	if err := p.Do(func() error { return os.WriteFile("/run/fuzz/other", []byte(script), 0o755) }); err != nil {
		f.Fatal(err)
	}
	for _, answer := range []string{
		`{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.5/24","gateway":"10.9.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.9.0.1"]}}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.5/24","gateway":"10.9.0.1"},"ip6":{"ip":"fd09::5/64"}}`,
		`{"ips":[{"address":"10.9.0.5/24","interface":7},null]}`, `{"code":7,"msg":"no"}`, "", "[]", "null",
	} {
		f.Add([]byte(answer), uint8(0), uint64(0))
		f.Add([]byte(answer), uint8(1), uint64(len(answer)))
	}
	config := mustJSON(object{"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "br0", "bridgeLifetime": "auto", "isDefaultGateway": true, "ipMasq": true, "ipam": object{"type": "other"}})
	f.Fuzz(func(t *testing.T, answer []byte, status uint8, seed uint64) {
		if seed != 0 {
			answer = []byte(mutate(string(answer), random(seed)))
		}
		before := p.trace(t)
		p.answer(t, answer, status%3)
		if p.call(t, "ADD", "bridge", config, "") {
			p.call(t, "CHECK", "bridge", strings.TrimSuffix(config, "}")+`,"prevResult":{"cniVersion":"1.1.0"}}`, "")
			p.answer(t, nil, 0)
			p.del(t, "bridge", config, "")
		}
		p.leaves(t, before, "ADD with the answer "+string(answer))
	})
}

func (p place) answer(t *testing.T, answer []byte, status uint8) {
	t.Helper()
	err := p.Do(func() error {
		if err := os.WriteFile("/run/fuzz/answer", answer, 0o644); err != nil {
			return err
		}
		return os.WriteFile("/run/fuzz/status", []byte{'0' + status}, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
