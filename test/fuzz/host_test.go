// Package fuzz gives whole processes, plugins as runtimes execute them and trestle, any
// bytes to read: on standard input, in their environment, as files of theirs and as other
// programs' answers.
package fuzz

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = map[string]any

// steady is a testing.F that may be used in a fuzz target.
type steady struct{ *testing.F }

func (steady) Helper() {}

// place is a host with a container, whose own files nothing can be written to.
type place struct {
	*host.Host
	c *host.Container
}

func newPlace(f *testing.F) place {
	f.Helper()
	h := host.New(steady{f})
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	p := place{h, h.Container("c1")}
	p.MustRun("mkdir", "-p", "/run/fuzz")
	if err := p.Do(makeReadOnly); err != nil {
		f.Fatalf("make the real files read-only: %v", err)
	}
	return p
}

// makeReadOnly: a dataDir may be anywhere.
func makeReadOnly() error {
	mounts, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(mounts)), "\n") {
		point := strings.Fields(line)[4]
		private := slices.ContainsFunc([]string{"/run", "/etc", "/opt", "/var/lib", "/proc", "/sys", "/dev"}, func(dir string) bool {
			return point == dir || strings.HasPrefix(point, dir+"/")
		})
		if private {
			continue
		}
		err := unix.Mount("", point, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if err != nil && point == "/" {
			return err
		}
	}
	return nil
}

// mustJSON is for what is made of maps, texts and numbers.
func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// call runs a plugin, which answers in time, with an error object where it fails, and
// without any accident.
func (p place) call(t *testing.T, command, plugin, config, args string) (ok bool) {
	t.Helper()
	call := p.c.Call(command, plugin, config)
	call.Args, call.Path = args, p.Dirs().Trestle+":/run/fuzz"
	return p.exec(t, call)
}

func (p place) exec(t *testing.T, call host.Call) (ok bool) {
	t.Helper()
	output, err := p.Run(host.Command{
		Args: []string{filepath.Join(p.Dirs().Trestle, call.Plugin)}, Stdin: call.Config,
		Env: []string{
			"CNI_COMMAND=" + call.Command, "CNI_CONTAINERID=" + call.ContainerID, "CNI_NETNS=" + call.NetNS,
			"CNI_IFNAME=" + call.IfName, "CNI_ARGS=" + call.Args, "CNI_PATH=" + call.Path,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	problem := host.Answer{Output: output}.Err()
	switch said := output.Stdout + output.Stderr; {
	case strings.Contains(said, "goroutine ") || strings.Contains(said, "internal error"):
		t.Fatalf("%s %s fell over %q, args %q: %s", call.Command, call.Plugin, call.Config, call.Args, said)
	case problem != nil && host.CodeOf(problem) == 0:
		t.Fatalf("%s %s of %q, args %q: %v", call.Command, call.Plugin, call.Config, call.Args, problem)
	case problem != nil && !strings.Contains(output.Stdout, `"cniVersion"`):
		t.Fatalf("%s %s of %q: no cniVersion in %s", call.Command, call.Plugin, call.Config, output.Stdout)
	}
	return problem == nil
}

// del takes the attachment away, whatever is in the way of it, and what outlives it.
func (p place) del(t *testing.T, plugin, config, args string) {
	t.Helper()
	if !p.call(t, "DEL", plugin, config, args) && json.Valid([]byte(config)) {
		t.Errorf("DEL by %s of %q, which its ADD has taken, fails", plugin, config)
	}
}

// trace is what a call might leave: links, addresses, rules, records, leases.
func (p place) trace(t *testing.T) string {
	t.Helper()
	output, err := p.Run(host.Command{Args: []string{"sh", "-c", `for link in $(ip -br link | sed -n 's/^\([^ ]*\) .* 02:74:72:.*/\1/p'); do ip link delete $link; done
		ip -br link | sed 's/ .*//'; ip -br -4 address; ` + host.ListRuleset + ` | grep 'comment "n/c1'; ip -br -n c1 link | sed 's/ .*//'`}})
	if err != nil {
		t.Fatal(err)
	}
	trace := output.Stdout
	err = p.Do(func() error {
		for _, dir := range []string{"/run/trestle", "/run/cni", "/run/leases", "/var/lib/cni"} {
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				kept := strings.HasSuffix(path, "lock") || strings.HasPrefix(path, "/run/trestle/nft/") || strings.HasPrefix(entry0(entry), "last_reserved_ip") || strings.HasPrefix(path, "/run/trestle/bridge/")
				if err == nil && !entry.IsDir() && !kept && !strings.Contains(path, "/.trestle/") {
					trace += path + "\n"
				}
				return nil // what is not there has no files
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

func entry0(entry fs.DirEntry) string {
	if entry == nil {
		return ""
	}
	return entry.Name()
}

// leaves compares with what was before.
func (p place) leaves(t *testing.T, before, what string) {
	t.Helper()
	if diff := host.Diff(before, p.trace(t)); diff != "" {
		t.Errorf("%s leaves\n%s", what, diff)
		p.cleanUp()
	}
}

// cleanUp is for the next input, which shall not suffer by a fault that was found.
func (p place) cleanUp() {
	_, _ = p.Run(host.Command{Args: []string{"sh", "-c", `nft flush ruleset; rm -rf /run/trestle /run/cni /run/leases /var/lib/cni/*
		ip -n c1 link delete eth0; for link in $(ls /sys/class/net | grep -v 'lo\|uplink0'); do ip link delete $link; done`}}) // as well as it goes
}
