package host_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

const loopbackConfig = `{"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}`

func TestExec(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	c := h.Container("c1")
	answer := h.Exec(c.Call("ADD", "loopback", loopbackConfig))
	result, err := answer.Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Interfaces) != 1 || result.Interfaces[0].Sandbox != c.NetNS {
		t.Errorf("got %v, want lo in %s", result.Interfaces, c.NetNS)
	}

	call := c.Call("ADD", "loopback", loopbackConfig)
	call.IfName = ""
	answer = h.Exec(call)
	if _, err := answer.Result(); host.CodeOf(err) != 4 || !strings.Contains(err.Error(), "CNI_IFNAME") {
		t.Errorf("got %v, want code 4 that names CNI_IFNAME", err)
	}
}

func TestExecUnderStrace(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	call := h.Container("c1").Call("ADD", "loopback", loopbackConfig)
	call.Strace = &host.Strace{Syscalls: "setns"}
	answer := h.Exec(call)
	if want := []string{h.Dirs().Trestle + "/loopback"}; !slices.Equal(answer.Trace.Execs, want) || answer.Trace.Calls["setns"] == 0 {
		t.Errorf("got programs %v, %d setns, want %v and some", answer.Trace.Execs, answer.Trace.Calls["setns"], want)
	}
	call.Strace = &host.Strace{Syscalls: "setns", Inject: []string{"setns:error=EPERM:when=1"}}
	if answer = h.Exec(call); answer.Err() == nil || answer.Trace.Injected == 0 {
		t.Errorf("got %v with %d calls injected, want an error", answer.Err(), answer.Trace.Injected)
	}
}

// TestNetwork shows the harness at work with the reference plugins: what they
// are known to do is done, and what they are known to leave is noticed.
func TestNetwork(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	network := h.Network(`{"cniVersion": "1.0.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`)
	network.Path = []string{h.Dirs().Reference}
	h.Outside.Serve("tcp", ":80")
	before := h.Dump()

	c := h.Container("c1")
	inContainer := c.Dump()
	attachment := c.Attachment()
	attachment.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
	result, err := network.Add(attachment)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.IPs) != 2 {
		t.Errorf("got addresses %v, want one of each family", result.IPs)
	}
	c.Serve("tcp", ":80")
	for from, want := range map[*host.Namespace]struct {
		address, server string
		seen            netip.Addr
	}{
		c.Namespace: {"192.0.2.1:80", "outside", host.HostIPv4.Addr()},
		h.Outside:   {"192.0.2.2:8080", "c1", host.OutsideIPv4.Addr()},
	} {
		reply, err := from.Request("tcp", want.address)
		if err != nil || reply.Server != want.server || reply.Seen.Addr() != want.seen {
			t.Errorf("%s to %s: got %v, %v, want %s to see %s", from.Name, want.address, reply, err, want.server, want.seen)
		}
	}
	if err := network.Check(attachment); err != nil {
		t.Error(err)
	}
	if err := network.Del(attachment); err != nil {
		t.Fatal(err)
	}
	c.AssertUnchanged(inContainer)
	if diff := host.Diff(before, h.Dump()); !strings.Contains(diff, "link br0") || strings.Contains(diff, "veth") {
		t.Errorf("got\n%s, want the bridge to be left, and no veth", diff)
	}
}

func TestCnitool(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.InstallNetwork("10-lo.conflist", `{"cniVersion": "1.0.0", "name": "lo", "plugins": [{"type": "loopback"}]}`)
	c := h.Container("c1")
	output := h.Cnitool("add", "lo", c.NetNS)
	if result, err := host.DecodeResult([]byte(output.Stdout)); output.Code != 0 || err != nil || len(result.Interfaces) != 1 {
		t.Errorf("got exit status %d, %v: %v, want lo", output.Code, result, output)
	}
	if output := h.Cnitool("del", "other", c.NetNS); output.Code == 0 {
		t.Errorf("got exit status 0 for a network that is not there")
	}
}
