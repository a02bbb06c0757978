package suite

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/test/host"
)

// TestCnitool goes through the life of an attachment in each version of the
// spec that runtimes still speak.
func TestCnitool(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.InstallNetwork("10-n.conflist", fmt.Sprintf(`{"cniVersion": %q, "name": "n", "plugins": [
				{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
				 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}}]}`, version))
			other := h.Container("other")
			cnitool(t, h, "add", other)
			c := h.Container("c1")
			host0, container0 := h.Dump(), c.Dump()

			stdout := cnitool(t, h, "add", c)
			checkResult(t, version, stdout, c)
			if version != "0.3.1" { // which has no CHECK
				cnitool(t, h, "check", c)
			}
			if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
				t.Error(err)
			}
			cnitool(t, h, "del", c)
			h.AssertUnchanged(host0, keptByHostLocal("n")...)
			c.AssertUnchanged(container0)
			cnitool(t, h, "del", c) // again
		})
	}
}

// TestCnitoolLastContainer: where the network says so, all that the first container
// brought goes with the last one, the bridge included.
func TestCnitoolLastContainer(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.InstallNetwork("10-n.conflist", `{"cniVersion": "1.0.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "br0", "bridgeLifetime": "auto", "isDefaultGateway": true, "ipMasq": true,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]}}]}`)
	c := h.Container("c1")
	before := h.Dump()
	cnitool(t, h, "add", c)
	cnitool(t, h, "del", c)
	h.AssertUnchanged(before, append(keptByHostLocal("n"), "file /run/trestle/bridge/lock")...)
}

// keptByHostLocal begins the dump's lines of what is meant to stay when leases
// go: the cursor, which puts off the reuse of addresses, and the index.
func keptByHostLocal(network string) []string {
	dir := "file /var/lib/cni/networks/" + network
	return []string{dir + "/last_reserved_ip.", dir + "/.trestle/index ", dir + "/.trestle/used."}
}

func cnitool(t *testing.T, h *host.Host, command string, c *host.Container) string {
	t.Helper()
	output := h.Cnitool(command, "n", c.NetNS)
	if output.Code != 0 {
		t.Fatalf("cnitool %s: exit status %d: %s%s", command, output.Code, output.Stdout, output.Stderr)
	}
	return output.Stdout
}

// checkResult: it is of the version, names bridge, host veth and container
// interface, and ties each address to the latter.
func checkResult(t *testing.T, version, stdout string, c *host.Container) {
	t.Helper()
	var head struct{ CNIVersion string }
	if err := json.Unmarshal([]byte(stdout), &head); err != nil || head.CNIVersion != version {
		t.Errorf("got cniVersion %q, %v, want %q", head.CNIVersion, err, version)
	}
	result, err := host.DecodeResult([]byte(stdout))
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Interfaces) != 3 || len(result.IPs) != 2 {
		t.Fatalf("got %d interfaces and %d addresses, want 3 and 2:\n%s", len(result.Interfaces), len(result.IPs), stdout)
	}
	index := slices.IndexFunc(result.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" })
	if index < 0 || result.Interfaces[index].Name != "eth0" || result.Interfaces[index].Sandbox != c.NetNS {
		t.Errorf("got no eth0 in %s:\n%s", c.NetNS, stdout)
	}
	if result.Interfaces[0].Name != "br0" || !strings.HasPrefix(result.Interfaces[1].Name, "v") {
		t.Errorf("got interfaces %v, want br0 and a veth on the host first", result.Interfaces)
	}
	for _, i := range result.Interfaces {
		if _, err := net.ParseMAC(i.Mac); err != nil {
			t.Errorf("got MAC %q of %s: %v", i.Mac, i.Name, err)
		}
	}
	for _, ip := range result.IPs {
		if ip.Interface == nil || *ip.Interface != index {
			t.Errorf("got %v, want it tied to interface %d", ip, index)
		}
		if !strings.Contains(c.Dump(), " local="+ip.Address.IP.String()+" ") {
			t.Errorf("got address %s in the result, which eth0 does not have", ip.Address.IP)
		}
	}
	if version != "1.1.0" && strings.Contains(stdout, `"mtu"`) {
		t.Errorf("got mtu, a field of 1.1.0, in a result of %s", version)
	}
}
