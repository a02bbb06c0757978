// Package security holds what docs/security.md says that no other test does: which
// capabilities the plugins need, what of theirs others may read or write, and what a
// container can make of its place on a bridge.
package security

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = map[string]any

// chain is a network with all plugins.
func chain(backend string) []object {
	return []object{
		{
			"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": backend, "macspoofchk": true, "hairpinMode": true,
			"runtimeConfig": object{"mac": "02:00:00:00:00:07"}, // is announced to the neighbours
			"ipam":          object{"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.9.0.0/24"}}, []any{object{"subnet": "fd09::/64"}}}},
		},
		{"type": "tuning", "sysctl": object{"net.core.somaxconn": "512"}, "mtu": 1400},
		{"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000},
		{"type": "portmap", "backend": backend, "runtimeConfig": object{"portMappings": []any{
			object{"hostPort": 8080, "containerPort": 80}, object{"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
		}}},
		{"type": "firewall", "ingressPolicy": "isolated"},
	}
}

// chained is a container and its network, whose plugins run behind the words of a prefix.
type chained struct {
	*host.Host
	c       *host.Container
	plugins []object
	prefix  []string
	result  string // of the last ADD
}

// run runs a command of the chain, until the first error.
func (r *chained) run(command string) error {
	plugins := slices.Clone(r.plugins)
	if command == "DEL" {
		slices.Reverse(plugins)
	}
	for _, config := range plugins {
		config["cniVersion"], config["name"] = "1.1.0", "n"
		delete(config, "prevResult")
		if r.result != "" {
			config["prevResult"] = json.RawMessage(r.result)
		}
		data, err := json.Marshal(config)
		if err != nil {
			return err
		}
		plugin := fmt.Sprint(config["type"])
		output, err := r.Run(host.Command{
			Args: append(slices.Clone(r.prefix), filepath.Join(r.Dirs().Trestle, plugin)), Stdin: string(data),
			Env: []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + r.c.ID, "CNI_NETNS=" + r.c.NetNS, "CNI_IFNAME=eth0", "CNI_PATH=" + r.Dirs().Trestle},
		})
		if err == nil {
			err = host.Answer{Output: output}.Err()
		}
		if err != nil {
			return fmt.Errorf("%s by %s: %w", command, plugin, err)
		}
		if command == "ADD" {
			r.result = output.Stdout
		}
	}
	return nil
}

// withCapabilities is a command prefix: root, with these and no other capabilities.
func withCapabilities(names ...string) []string {
	set := "-all"
	for _, name := range names {
		set += ",+" + name
	}
	return []string{"setpriv", "--bounding-set=" + set, "--inh-caps=" + set, "--"}
}

// TestCapabilities: root needs net_admin, for links and rules, sys_admin, to enter a
// namespace, and net_raw, to announce a MAC that was asked for, or that is not made from an
// IPv6 address, and, with iptables, to read its tables; and no more. Without one of them, ADD says which is missing and
// leaves nothing.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		backend string
		needs   []string
	}{
		{"nftables", []string{"net_admin", "sys_admin", "net_raw"}},
		{"iptables", []string{"net_admin", "sys_admin", "net_raw"}},
	} {
		t.Run(test.backend, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			r := &chained{Host: h, c: c, plugins: chain(test.backend), prefix: withCapabilities(test.needs...)}
			if err := r.run("ADD"); err != nil {
				t.Fatal(err)
			}
			c.Serve("tcp", ":80")
			if reply, err := h.Outside.Request("tcp", "192.0.2.2:8080"); err != nil || reply.Server != "c1" {
				t.Errorf("got %v, %v, want the container", reply, err)
			}
			for _, command := range []string{"CHECK", "DEL"} {
				if err := r.run(command); err != nil {
					t.Error(err)
				}
			}
			for _, missing := range test.needs {
				before := h.Dump()
				less := slices.DeleteFunc(slices.Clone(test.needs), func(name string) bool { return name == missing })
				r := &chained{Host: h, c: c, plugins: r.plugins[:1], prefix: withCapabilities(less...)}
				if err := r.run("ADD"); err == nil || !strings.Contains(err.Error(), "permitted; this process lacks CAP_"+strings.ToUpper(missing)+":") {
					t.Errorf("without %s: got %v, want it to say that it is not permitted, and what is missing", missing, err)
				}
				h.AssertUnchanged(before, host.Kept...)
			}
		})
	}
}

// TestFilesAreRoots: of what the plugins write, nobody else may write anything, nor open a
// lock or a record; leases can be read, as host-local's.
func TestFilesAreRoots(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	r := &chained{Host: h, c: h.Container("c1"), plugins: chain("nftables"), prefix: []string{"sh", "-c", `umask 0; exec "$0"`}}
	if err := r.run("ADD"); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := h.Do(func() error {
		for _, dir := range []string{"/run/trestle", "/run/cni", "/var/lib/cni/networks", "/var/lib/trestle"} {
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if os.IsNotExist(err) {
					return nil
				}
				if err != nil || entry.Type()&fs.ModeSymlink != 0 {
					return err
				}
				info, err := entry.Info()
				if err != nil {
					return err
				}
				seen++
				mode := info.Mode().Perm()
				if mode&0o022 != 0 {
					t.Errorf("%s: %v, which others may write", path, mode)
				}
				if strings.HasPrefix(path, "/run/trestle") && mode&0o077 != 0 && path != "/run/trestle" {
					t.Errorf("%s: %v, which others may open", path, mode)
				}
				if strings.HasSuffix(path, "lock") && mode&0o077 != 0 {
					t.Errorf("%s: %v, which others may hold", path, mode)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("looked at %d files, %v", seen, err)
	}
}

// TestAdvertisedRouter: a container that plays the router, by advertisements to all, is
// neither the host's router nor its neighbours'.
func TestAdvertisedRouter(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	for _, id := range []string{"rogue", "victim"} {
		r := &chained{Host: h, c: h.Container(id), plugins: chain("nftables")[:1]}
		r.plugins[0]["runtimeConfig"] = nil // each with a MAC of its own
		if err := r.run("ADD"); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"/proc/sys/net/ipv6/conf/br0/accept_ra": "0"} {
		if got := strings.TrimSpace(h.MustRun("cat", path)); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	if got := strings.TrimSpace(h.MustRun("ip", "netns", "exec", "victim", "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra")); got != "0" {
		t.Errorf("the neighbour accepts advertisements: %s", got)
	}
}

// TestForgedSource: what a container sends from an address that is not its network's is
// not masqueraded, and nobody outside has a way back; nor does it reach the host's own
// loopback.
func TestForgedSource(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	r := &chained{Host: h, c: c, plugins: chain("nftables")}
	if err := r.run("ADD"); err != nil {
		t.Fatal(err)
	}
	h.Serve("tcp", "127.0.0.1:22")
	h.Outside.Serve("tcp", ":80")
	c.MustRun("ip", "address", "add", "198.51.100.7/32", "dev", "eth0")
	if reply, err := c.Briefly().RequestFrom("tcp", "198.51.100.7:0", "192.0.2.1:80"); err == nil {
		t.Errorf("a forged source was answered: %v", reply)
	}
	c.MustRun("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
	c.MustRun("ip", "link", "set", "lo", "down") // so that its own loopback does not answer
	c.MustRun("ip", "route", "add", "127.0.0.1/32", "via", "10.9.0.1")
	if reply, err := c.Briefly().Request("tcp", "127.0.0.1:22"); err == nil {
		t.Errorf("the host's loopback answered: %v", reply)
	}
	if err := c.Ping(netip.MustParseAddr("10.9.0.1")); err != nil {
		t.Error(err)
	}
}

// TestUserNamespace: root of a user namespace, with network and files of its own, has all
// plugins; the lock and the records of the host's root are not its.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	var script strings.Builder
	script.WriteString(`set -e; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib/cni; mount -t tmpfs tmpfs /var/lib; mkdir -p /var/lib/cni
		ip link set lo up; ip netns add c1; ip -n c1 link set lo up; export CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/c1 CNI_IFNAME=eth0 CNI_PATH=` + h.Dirs().Trestle + "\n")
	config := chain("nftables")[0]
	config["cniVersion"], config["name"] = "1.1.0", "n"
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"ADD", "DEL"} {
		fmt.Fprintf(&script, "CNI_COMMAND=%s %s/bridge <<'END' || { echo FAILED; exit 1; }\n%s\nEND\n", command, h.Dirs().Trestle, data)
		if command == "ADD" {
			script.WriteString("ip netns exec c1 ping -n -c1 -W30 10.9.0.1\n")
		}
	}
	script.WriteString("ls /sys/class/net; ls /var/lib/cni/networks/n")
	output, err := h.Run(host.Command{Args: []string{"unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", script.String()}})
	if err != nil || output.Code != 0 || strings.Contains(output.Stdout, "10.9.0.2\n") {
		t.Errorf("got %v, %d, %s%s", err, output.Code, output.Stdout, output.Stderr)
	}
}
