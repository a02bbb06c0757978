package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// read is the content of a file of the host, empty where there is none.
func read(h *host.Host, path string) (content string) {
	_ = h.Do(func() error { // no file, no content
		data, err := os.ReadFile(path)
		content = string(data)
		return err
	})
	return content
}

// lookingIPAM is an IPAM plugin that writes down what it is asked and what it finds:
// the state of the interface, and how many ports of the bridge forward. It answers
// with /run/ipam.answer, or refuses where there is none.
const lookingIPAM = `#!/bin/sh
state=$(ip -o -n "${CNI_NETNS##*/}" link show "$CNI_IFNAME" 2>/dev/null | grep -o 'state [A-Z]*')
echo "$CNI_COMMAND: ${state:-no link}, $(bridge link show | grep -c 'master br0 state forwarding') forwarding" >>/run/ipam.log
[ "$CNI_COMMAND" = ADD ] || exit 0
cat /run/ipam.answer 2>/dev/null && exit
echo '{"cniVersion": "1.1.0", "code": 11, "msg": "later"}'
exit 1
`

// lookingCall is the ADD of a network on a new host whose IPAM plugin that is.
func lookingCall(t *testing.T, answer string, edit object) (*host.Host, *host.Container, host.Call) {
	t.Helper()
	h := host.NewRouting(t)
	h.WriteProgram("/opt/ipam/looking", lookingIPAM)
	if answer != "" {
		h.WriteProgram("/run/ipam.answer", answer)
	}
	config := object{"ipMasq": nil, "isDefaultGateway": nil, "isGateway": true, "ipam": object{"type": "looking"}}
	maps.Copy(config, edit)
	c := h.Container("c1")
	call := c.Call("ADD", "bridge", host.BridgeConfig(config))
	call.Path = "/opt/ipam"
	return h, c, call
}

const leaseOfBoth = `{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}, {"address": "fd09::7/64", "gateway": "fd09::1"}],
	"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}`

// TestIPAMOfAnotherProgramFindsTheLink: up, and on the bridge, at ADD; and gone at
// DEL, when the address may be given to another.
func TestIPAMOfAnotherProgramFindsTheLink(t *testing.T) {
	t.Parallel()
	h, c, call := lookingCall(t, leaseOfBoth, nil)
	added := h.Exec(call)
	result, err := added.Result()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(result.IPs[0].Address.String(), " ", result.IPs[1].Address.String()); got != "10.9.0.7/24 fd09::7/64" {
		t.Errorf("got addresses %s", got)
	}
	for _, address := range []string{"10.9.0.7", "fd09::7"} {
		if err := h.Ping(netip.MustParseAddr(address)); err != nil {
			t.Error(err)
		}
	}
	check := call
	check.Command, check.Config = "CHECK", withPrev(t, call.Config, added.Stdout)
	if err := h.Exec(check).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	first := result.Interfaces[2].Mac
	call.Command = "DEL"
	for range 2 {
		if err := h.Exec(call).Err(); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	call.Command = "ADD"
	if result, err = h.Exec(call).Result(); err != nil || result.Interfaces[2].Mac != first {
		t.Errorf("got %v, %v; want the MAC %s again, by which a server knows the container", result, err, first)
	}
	const want = "ADD: state UP, 1 forwarding\nCHECK: state UP, 1 forwarding\nDEL: no link, 0 forwarding\nDEL: no link, 0 forwarding\nADD: state UP, 1 forwarding\n"
	if got := read(h, "/run/ipam.log"); got != want {
		t.Errorf("the plugin saw:\n%swant:\n%s", got, want)
	}
	c.Remove()
}

// TestIPAMOfAnotherProgramIsGone: what is ours goes without it; what it may hold, the error
// says, since a runtime asks again until there is none, and then the plugin frees it.
func TestIPAMOfAnotherProgramIsGone(t *testing.T) {
	for _, name := range []string{"looking", "dhcp"} { // before the link goes, and after
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c, call := lookingCall(t, leaseOfBoth, object{
				"ipMasq": true, "ipam": object{"type": name}, "capabilities": object{"portMappings": true}, "runtimeConfig": object{
					"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}},
				},
			})
			path := "/opt/ipam/" + name
			h.WriteProgram(path, lookingIPAM)
			h.Container("c0").MustAdd(host.BridgeConfig(object{"name": "other"})) // which keeps the bridge
			before, inside := h.Dump(), c.Dump()
			if err := h.Exec(call).Err(); err != nil {
				t.Fatal(err)
			}
			h.MustRun("mv", path, "/run/gone")
			call.Command = "DEL"
			gc := host.Call{Plugin: "bridge", Command: "GC", Path: call.Path, Config: withKeys(t, call.Config, object{"cni.dev/valid-attachments": []any{}})}
			for range 2 {
				for _, call := range []host.Call{call, gc} {
					err := h.Exec(call).Err()
					if host.CodeOf(err) != 11 || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "may hold") || strings.Contains(err.Error(), "not found") {
						t.Errorf("%s: got %v, want code 11 and that %s may hold something", call.Command, err, name)
					}
				}
			}
			h.AssertUnchanged(before, append(slices.Clone(host.Kept), "file /run/ipam.log", "file /run/gone", "file "+path)...)
			c.AssertUnchanged(inside)
			h.MustRun("mv", "/run/gone", path)
			for _, call := range []host.Call{call, gc} {
				if err := h.Exec(call).Err(); err != nil {
					t.Errorf("%s with the plugin: %v", call.Command, err)
				}
			}
			if got := strings.Count(read(h, "/run/ipam.log"), "DEL: "); got != 1 {
				t.Errorf("the plugin was asked for %d DELs, want 1", got)
			}
		})
	}
}

// TestIPAMOfAnotherProgramSaysLittle: the code of its error is passed on, whatever else is
// not there.
func TestIPAMOfAnotherProgramSaysLittle(t *testing.T) {
	t.Parallel()
	h, c, call := lookingCall(t, "", nil)
	for answer, want := range map[string]struct {
		code uint
		says string
	}{
		`{"code": 3}`:                       {3, "plugin looking: failed with code 3 and no message"},
		`{"code": 3, "details": "no idea"}`: {3, "plugin looking: failed with code 3 and no message; no idea"},
		`{"code": 11, "msg": "later"}`:      {11, "plugin looking: later"},
		`{"code": 999, "msg": "hm"}`:        {100, "plugin looking: hm"},
		`{"msg": "hm"}`:                     {100, "plugin looking: hm"},
		`{}`:                                {100, "plugin looking: exit status 1 without an error object"},
		`hello`:                             {100, "plugin looking: exit status 1 without an error object"},
	} {
		h.WriteProgram("/opt/ipam/looking", "#!/bin/sh\necho '"+answer+"'\nexit 1\n")
		for _, command := range []string{"ADD", "DEL", "STATUS"} {
			call.Command = command
			if err := h.Exec(call).Err(); host.CodeOf(err) != want.code || !strings.Contains(err.Error(), want.says) {
				t.Errorf("%s answered with %s: got %v, want code %d and %q", command, answer, err, want.code, want.says)
			}
		}
	}
	c.Remove()
}

// withKeys is a configuration with more keys.
func withKeys(t *testing.T, config string, more object) string {
	t.Helper()
	merged, _ := host.DecodeJSON(t, config).(map[string]any)
	maps.Copy(merged, more)
	data, err := json.Marshal(merged)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestIPAMOfAnotherProgramFails: whatever fails after the link was made takes it
// away again, and the lease after it.
func TestIPAMOfAnotherProgramFails(t *testing.T) {
	mapped := object{"capabilities": object{"portMappings": true}, "runtimeConfig": object{
		"portMappings": []any{object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
	}}
	other := host.BridgeConfig(object{"name": "other", "bridge": "br1", "ipam": host.Leases("10.7.0.0/24")}) // has the port
	const asked, released = "ADD: state UP, 1 forwarding\n", "DEL: no link, 0 forwarding\n"
	for _, tt := range []struct {
		name   string
		answer string
		edit   object
		code   uint
		want   string // of the plugin's log
	}{
		{"the plugin refuses", "", nil, 11, asked + "DEL: state UP, 1 forwarding\n"},
		{"the answer is nonsense", "hello", nil, 6, asked + "DEL: state UP, 1 forwarding\n"},
		{"no address", `{"cniVersion": "1.1.0"}`, nil, 6, asked + released},
		{"a null among the addresses", `{"cniVersion": "1.1.0", "ips": [null]}`, nil, 6, asked + "DEL: state UP, 1 forwarding\n"},
		{"the gateway's subnet is taken", `{"cniVersion": "1.1.0", "ips": [{"address": "10.8.1.7/24", "gateway": "10.8.1.1"}]}`, nil, 102, asked + released},
		{"the port is taken", leaseOfBoth, mapped, 102, asked + released},
	} {
		for _, administrators := range []bool{true, false} {
			if tt.code == 102 && !administrators && tt.edit == nil {
				continue // there is no such subnet on a bridge of ours
			}
			t.Run(fmt.Sprintf("%s, administrator's bridge %t", tt.name, administrators), func(t *testing.T) {
				t.Parallel()
				h, c, call := lookingCall(t, tt.answer, tt.edit)
				if administrators {
					h.MustRun("ip", "link", "add", "br0", "address", "02:00:00:00:00:07", "type", "bridge")
					h.MustRun("ip", "link", "set", "br0", "up", "addrgenmode", "none")
					h.MustRun("ip", "address", "add", "10.8.0.1/16", "dev", "br0")
				}
				h.Container("c0").MustAdd(withKeys(t, other, mapped))
				before, inside := h.Dump(), c.Dump()
				if err := h.Exec(call).Err(); host.CodeOf(err) != tt.code {
					t.Fatalf("got %v, want code %d", err, tt.code)
				}
				h.AssertUnchanged(before, "file /run/ipam.log")
				c.AssertUnchanged(inside)
				if got := read(h, "/run/ipam.log"); got != tt.want {
					t.Errorf("the plugin saw:\n%swant:\n%s", got, tt.want)
				}
			})
		}
	}
}

// TestIPAMOfAnotherProgramGivesIPv6: what routers have advertised since the link came
// up does not stay beside the addresses that IPAM gave; where it gave none of IPv6,
// it does.
func TestIPAMOfAnotherProgramGivesIPv6(t *testing.T) {
	for answer, stays := range map[string]bool{
		leaseOfBoth: false,
		`{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}]}`: true,
	} {
		h, c, call := lookingCall(t, answer, nil)
		advertised := `ip -n c1 address add 2001:db8:5::5/64 dev eth0; ip -n c1 route add default via fe80::1 dev eth0 proto ra` // as the kernel would
		h.WriteProgram("/opt/ipam/looking", strings.Replace(lookingIPAM, "[ \"$CNI_COMMAND\" = ADD ] || exit 0\n", "[ \"$CNI_COMMAND\" = ADD ] || exit 0\n"+advertised+"\n", 1))
		if err := h.Exec(call).Err(); err != nil {
			t.Fatal(err)
		}
		state := c.MustRun("ip", "-6", "address") + c.MustRun("ip", "-6", "route")
		for _, text := range []string{"2001:db8:5::5", "via fe80::1"} {
			if got := strings.Contains(state, text); got != stays {
				t.Errorf("with %s: got %t, want %t for %s in\n%s", answer, got, stays, text, state)
			}
		}
		if strings.Contains(answer, "fd09") {
			mustContain(t, "addresses and routes", state, "fd09::7", "default via fd09::1", "fe80::")
		}
	}
}

// TestIPAMAnswersAsTheReferenceTakesThem: without a version, with interfaces, in
// the shape of another version.
func TestIPAMAnswersAsTheReferenceTakesThem(t *testing.T) {
	for _, tt := range []struct{ name, version, answer string }{
		{"no version", "1.0.0", `{"ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}]}`},
		{"no version", "1.1.0", `{"ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}], "routes": [{"dst": "0.0.0.0/0", "priority": 7}]}`},
		{"no version", "0.3.1", `{"ips": [{"version": "4", "address": "10.9.0.7/24", "gateway": "10.9.0.1"}]}`},
		{"no version", "0.2.0", `{"ip4": {"ip": "10.9.0.7/24", "gateway": "10.9.0.1", "routes": [{"dst": "0.0.0.0/0"}]}}`},
		{"another version", "1.0.0", `{"cniVersion": "0.2.0", "ip4": {"ip": "10.9.0.7/24", "gateway": "10.9.0.1"}}`},
		{"an interface", "1.0.0", `{"cniVersion": "1.0.0", "interfaces": [{"name": "foo"}], "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1", "interface": 0}]}`},
		{"no such interface", "1.0.0", `{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1", "interface": 7}]}`},
	} {
		t.Run(tt.name+" in "+tt.version, func(t *testing.T) {
			t.Parallel()
			answers := map[bool]any{}
			for _, theirs := range []bool{true, false} {
				h, _, call := lookingCall(t, tt.answer, object{"cniVersion": tt.version})
				if theirs {
					call.Plugin = h.Reference("bridge")
				}
				answer := h.Exec(call)
				if err := answer.Err(); err != nil {
					t.Fatalf("%s: %v", call.Plugin, err)
				}
				result, _ := host.DecodeJSON(t, answer.Stdout).(map[string]any)
				delete(result, "interfaces") // other names and MACs
				delete(result, "dns")        // theirs may be an empty one
				answers[theirs] = result
			}
			if diff := cmp.Diff(answers[true], answers[false]); diff != "" {
				t.Errorf("-reference +trestle:\n%s", diff)
			}
		})
	}
}

const udhcpdConfig = `start 192.0.2.100
end 192.0.2.120
interface eth0
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
min_lease 1
option subnet 255.255.255.0
option router 192.0.2.1
option lease 6
`

// TestDHCP: the reference's dhcp plugin with its daemon, and a server on a LAN that
// the bridge is part of: the lease is got, kept by renewal, and given back by the
// link at DEL.
func TestDHCP(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	lan, c := h.Container("lan"), h.Container("c1")
	h.MustRun("ip", "link", "add", "br0", "address", "02:00:00:00:00:07", "type", "bridge") // else it changes with its ports
	h.MustRun("ip", "link", "set", "br0", "up")
	h.MustRun("ip", "link", "add", "lan0", "master", "br0", "up", "type", "veth", "peer", "name", "eth0", "netns", "lan")
	lan.MustRun("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
	lan.MustRun("ip", "link", "set", "eth0", "up")
	h.WriteProgram("/run/udhcpd.conf", udhcpdConfig)
	h.WriteProgram("/run/udhcpd.leases", "")
	lan.Start(host.Command{Args: []string{"busybox", "udhcpd", "-f", "-a", "0", "/run/udhcpd.conf"}})
	lan.Start(host.Command{Args: []string{"sh", "-c", "exec tcpdump -n -l -v --immediate-mode -i eth0 udp port 67 >/run/heard 2>&1"}})
	h.Start(host.Command{Args: []string{"sh", "-c", "exec " + h.Reference("dhcp") + " daemon 2>/run/dhcp.log"}})
	host.Await(t, "the daemon of dhcp listens", func() bool {
		return h.Do(func() error { _, err := os.Stat("/run/cni/dhcp.sock"); return err }) == nil
	})
	host.Await(t, "the server and its witness listen", func() bool { // UDP port 67
		return strings.Contains(lan.MustRun("cat", "/proc/net/udp"), ":0043 ") && strings.Contains(read(h, "/run/heard"), "listening on")
	})
	before, inside := h.Dump(), c.Dump()

	call := c.Call("ADD", "bridge", host.BridgeConfig(object{"name": "lan", "ipMasq": nil, "isDefaultGateway": nil, "ipam": object{"type": "dhcp"}}))
	call.Path = h.Dirs().Trestle + ":" + h.Dirs().Reference
	result, err := h.Exec(call).Result()
	if err != nil {
		t.Fatalf("%v; the daemon says:\n%s", err, read(h, "/run/dhcp.log"))
	}
	if got := result.IPs[0]; !netip.MustParsePrefix("192.0.2.96/27").Contains(netip.MustParseAddr(got.Address.IP.String())) || got.Gateway.String() != "192.0.2.1" {
		t.Errorf("got %v, want an address of the server's", got)
	}
	if err := c.Ping(netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Error(err)
	}
	host.Await(t, "the lease is renewed", func() bool { return strings.Contains(read(h, "/run/dhcp.log"), "lease renewed") })

	call.Command = "DEL"
	for range 2 {
		if err := h.Exec(call).Err(); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if log := read(h, "/run/dhcp.log"); !strings.Contains(log, "releasing lease") || strings.Contains(log, "failed to release") {
		t.Errorf("the daemon says:\n%s; want the lease released", log)
	}
	host.Await(t, "the release is heard by the server", func() bool {
		return strings.Contains(read(h, "/run/heard"), "DHCP-Message (53), length 1: Release")
	})
	// a bridge that reaches containers takes no router advertisements
	h.AssertUnchanged(before, "file /run/", "sysctl net/ipv6/conf/br0/accept_ra")
	c.AssertUnchanged(inside)
}

// TestIPAMOfAnotherProgramGCAndStatus: both reach it with the whole configuration, and
// what it refuses is refused by its own code.
func TestIPAMOfAnotherProgramGCAndStatus(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.WriteProgram("/opt/ipam/counting", `#!/bin/sh
echo "$CNI_COMMAND $(grep -c '"containerID": *"c7"')" >>/run/ipam.log
[ ! -e /run/ipam.full ] && exit 0
echo '{"cniVersion": "1.1.0", "code": 50, "msg": "the pool is full"}'
exit 1
`)
	config := host.BridgeConfig(object{"ipam": object{"type": "counting"}, "cni.dev/valid-attachments": []any{object{"containerID": "c7", "ifname": "eth0"}}})
	for _, command := range []string{"GC", "STATUS"} {
		call := host.Call{Plugin: "bridge", Command: command, Config: config, Path: "/opt/ipam"}
		if err := h.Exec(call).Err(); err != nil {
			t.Errorf("%s: %v", command, err)
		}
		h.MustRun("touch", "/run/ipam.full")
		if err := h.Exec(call).Err(); host.CodeOf(err) != 50 || !strings.Contains(err.Error(), "the pool is full") {
			t.Errorf("%s: got %v, want the plugin's own refusal", command, err)
		}
		h.MustRun("rm", "/run/ipam.full")
	}
	if got, want := read(h, "/run/ipam.log"), "GC 1\nGC 1\nSTATUS 1\nSTATUS 1\n"; got != want {
		t.Errorf("got the calls %q, want %q", got, want)
	}
}
