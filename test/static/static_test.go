package static

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// TestStaticAsReference: the same answer as the reference plugin, in every
// version of the spec.
func TestStaticAsReference(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	c := h.Container("c1")
	const one = `"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}]`
	for _, test := range []struct{ name, config, args string }{
		{"whole", `"ipam": {"type": "static", ` + one + `, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
			"dns": {"nameservers": ["10.1.0.53"], "domain": "a.example", "search": ["b.example"], "options": ["ndots:2"]}}`, ""},
		{"marshalled from Go", `"ipam": {"type": "static", "addresses": [{"address": "10.1.0.5/24", "Address": {"IP": "10.1.0.5", "Mask": "////AA=="}, "Version": "4"},
			{"address": "fd00::5/64", "gateway": "fd00::1", "Address": {"IP": "", "Mask": null}, "Version": ""}]}`, ""},
		{"CNI_ARGS", `"ipam": {"type": "static"}`, "IgnoreUnknown=1;K8S_POD_NAME=p;IP=10.2.0.7/16,fd01::7/64;GATEWAY=10.2.0.1"},
		{"args", `"ipam": {"type": "static", ` + one + `}, "args": {"cni": {"ips": ["10.3.0.5/24"]}}`, ""},
		{"runtime", `"ipam": {"type": "static", ` + one + `}, "runtimeConfig": {"ips": ["10.4.0.5/24", "fd04::5/64"]}`, "IP=10.2.0.7/16"},
	} {
		for _, version := range []string{"0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			call := c.Call("ADD", "static", fmt.Sprintf(`{"cniVersion": %q, "name": "n", "type": "bridge", %s}`, version, test.config))
			call.Args = test.args
			ours := h.Exec(call)
			call.Plugin = filepath.Join(h.Dirs().Reference, "static")
			theirs := h.Exec(call)
			if ours.Code != 0 || theirs.Code != 0 {
				t.Errorf("%s, %s: got %s, want %s", test.name, version, ours.Stdout, theirs.Stdout)
				continue
			}
			if diff := cmp.Diff(host.DecodeJSON(t, theirs.Stdout), host.DecodeJSON(t, ours.Stdout)); diff != "" {
				t.Errorf("%s, %s: the answer differs (-theirs +ours):\n%s", test.name, version, diff)
			}
		}
	}
}

// TestStaticOnBridge goes through the life of an attachment with addresses of
// its own.
func TestStaticOnBridge(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	network := h.Network(`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
		"capabilities": {"ips": true}, "ipam": {"type": "static", "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}]}}]}`)
	c, d := h.Container("c1"), h.Container("c2")
	if err := network.Status(); err != nil {
		t.Error(err)
	}
	first, second := c.Attachment(), d.Attachment()
	second.CapabilityArgs["ips"] = []string{"10.1.0.6/24"}
	if _, err := network.Add(first); err != nil {
		t.Fatal(err)
	}
	if _, err := network.Add(second); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
	d.Serve("tcp", "10.1.0.6:80")
	if _, err := c.Request("tcp", "10.1.0.6:80"); err != nil {
		t.Error(err)
	}
	for _, a := range []struct {
		name string
		err  error
	}{
		{"check", network.Check(second)},
		{"gc", network.GC(nil)},
		{"del", network.Del(second)},
		{"del again", network.Del(second)},
	} {
		if a.err != nil {
			t.Errorf("%s: %v", a.name, a.err)
		}
	}
}

// TestStaticSaysWhy: mistakes have the spec's code, and no side effect.
func TestStaticSaysWhy(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	c := h.Container("c1")
	before := h.Dump()
	for _, test := range []struct {
		command, config string
		code            uint
		want            string
	}{
		{"ADD", `{"cniVersion": "1.1.0", "name": "n", "ipam": {"addresses": [{"address": "10.1.0.5"}]}}`, 7, `"10.1.0.5" is not an address with the length of its prefix`},
		{"STATUS", `{"cniVersion": "1.1.0", "name": "n", "ipam": {"addresses": [{"address": "10.1.0.5"}]}}`, 7, `"10.1.0.5" is not an address`},
		{"CHECK", `{"cniVersion": "1.1.0", "name": "n", "ipam": {}}`, 7, "prevResult: missing"},
		{"CHECK", `{"cniVersion": "1.1.0", "name": "n", "ipam": {"addresses": [{"address": "10.1.0.5/24"}]}, "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.6/24"}]}}`, 103, "address 10.1.0.5/24: want it"},
		{"ADD", `{"cniVersion": "1.1.0", "name": "n", "ipam": {"routes": [{"dst": "x"}]}}`, 6, `ipam.routes[0].dst: "x" is not a prefix`},
	} {
		err := h.Exec(c.Call(test.command, "static", test.config)).Err()
		if host.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %s: got %v, want code %d and %q", test.command, test.config, err, test.code, test.want)
		}
	}
	h.AssertUnchanged(before)
	banner := h.MustRun("sh", "-c", filepath.Join(h.Dirs().Trestle, "static")+" 2>&1")
	if !strings.HasPrefix(banner, "CNI static plugin v") {
		t.Errorf("got banner %q", banner)
	}
}
