package portmap

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// natNet is a host with two bridges, made without any plugin; mappings are c1's.
type natNet struct {
	*host.Host
	c1, neighbour, other *host.Container
}

const (
	natC1v4, natC1v6       = "10.1.0.5/24", "fd00:1::5/64"
	natOtherv4, natOtherv6 = "10.2.0.7/24", "fd00:2::7/64"
)

func newNATNet(t *testing.T, brNetfilter bool) natNet {
	h := host.New(t)
	natSysctl(t, h, "net/ipv4/ip_forward", "1")
	natSysctl(t, h, "net/ipv6/conf/all/forwarding", "1")
	natSysctl(t, h, "net/ipv6/conf/default/accept_dad", "0") // which would add routes in the middle of a test
	for _, name := range []string{"iptables", "ip6tables"} {
		natSysctl(t, h, "net/bridge/bridge-nf-call-"+name, map[bool]string{true: "1", false: "0"}[brNetfilter])
	}
	natBridge(h, "br1", "10.1.0.1/24", "fd00:1::1/64")
	natBridge(h, "br2", "10.2.0.1/24", "fd00:2::1/64")
	n := natNet{
		Host:      h,
		c1:        natContainer(h, "c1", "br1", natC1v4, natC1v6),
		neighbour: natContainer(h, "c2", "br1", "10.1.0.6/24", "fd00:1::6/64"),
		other:     natContainer(h, "c3", "br2", natOtherv4, natOtherv6),
	}
	for _, protocol := range []string{"tcp", "udp"} {
		n.c1.Serve(protocol, ":80")
	}
	return n
}

func natSysctl(t *testing.T, h *host.Host, name, value string) {
	t.Helper()
	err := h.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) })
	if err != nil {
		t.Fatal(err)
	}
}

func natBridge(h *host.Host, name string, addresses ...string) {
	h.MustRun("ip", "link", "add", name, "address", "02:00:00:00:00:01", "type", "bridge") // else it changes with its ports
	h.MustRun("ip", "link", "set", name, "up")
	for _, a := range addresses {
		h.MustRun("ip", "address", "add", a, "dev", name, "nodad")
	}
}

// natContainer is a container as some main plugin would have attached it.
func natContainer(h *host.Host, id, bridge string, addresses ...string) *host.Container {
	c := h.Container(id)
	h.MustRun("ip", "link", "add", "veth-"+id, "master", bridge, "up", "type", "veth", "peer", "name", "eth0", "netns", id)
	c.MustRun("ip", "link", "set", "eth0", "up")
	for _, a := range addresses {
		c.MustRun("ip", "address", "add", a, "dev", "eth0", "nodad")
		c.MustRun("ip", "route", "add", "default", "via", netip.MustParsePrefix(a).Masked().Addr().Next().String())
	}
	return c
}

// natResult is what the main plugin would have answered.
func natResult(c *host.Container, addresses ...string) string {
	var ips []string
	for _, a := range addresses {
		ips = append(ips, fmt.Sprintf(`{"address": %q, "interface": 2}`, a))
	}
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "interfaces": [{"name": "br1"}, {"name": "veth-%s"}, {"name": "eth0", "sandbox": %q}], "ips": [%s]}`,
		c.ID, c.NetNS, strings.Join(ips, ", "))
}

// natConfig is the configuration of a call: keys are those of the plugin, "" or
// like `"snat": false`, result and mappings may be "".
func natConfig(network, keys, result, mappings string) string {
	if keys != "" {
		keys = ", " + keys
	}
	if result != "" {
		keys += `, "prevResult": ` + result
	}
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "type": "portmap"%s, "runtimeConfig": {"portMappings": [%s]}}`, network, keys, mappings)
}

// natMapping is one entry of portMappings.
func natMapping(protocol, hostIP string, hostPort, containerPort int) string {
	return fmt.Sprintf(`{"hostPort": %d, "containerPort": %d, "protocol": %q, "hostIP": %q}`, hostPort, containerPort, protocol, hostIP)
}

// mapPorts maps ports of c1 until the test ends, when nothing of ours may be left.
func (n natNet) mapPorts(t *testing.T, keys string, mappings ...string) {
	t.Helper()
	n.makeKernelTables()
	before := n.Dump()
	config := natConfig("blue", keys, natResult(n.c1, natC1v4, natC1v6), strings.Join(mappings, ", "))
	for _, verb := range []string{"ADD", "CHECK"} {
		if err := n.Exec(n.c1.Call(verb, "portmap", config)).Err(); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
	}
	t.Cleanup(func() {
		if err := n.Exec(n.c1.Call("DEL", "portmap", natConfig("blue", "", "", ""))).Err(); err != nil {
			t.Errorf("DEL: %v", err)
		}
		n.collect(t)
		n.AssertUnchanged(before, "neighbour", "fdb", "link veth-c1") // the port's hairpin flag goes with the port
	})
}

// collect has what outlives the last attachment taken away: nobody uses the networks.
func (n natNet) collect(t *testing.T) {
	t.Helper()
	for _, network := range []string{"blue", "red"} {
		gc := host.Call{Plugin: "portmap", Command: "GC", Config: natConfig(network, `"cni.dev/valid-attachments": []`, "", "")}
		if err := n.Exec(gc).Err(); err != nil {
			t.Errorf("GC of %s: %v", network, err)
		}
	}
}

// makeKernelTables makes what iptables takes for the kernel's own: its nft
// variant makes that at first use and never removes it.
func (n natNet) makeKernelTables() {
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, chain := range []string{"PREROUTING", "OUTPUT", "POSTROUTING"} {
			n.MustRun(name, "-t", "nat", "-A", chain, "-j", "RETURN")
			n.MustRun(name, "-t", "nat", "-D", chain, "-j", "RETURN")
		}
	}
	n.MustRun("iptables", "-t", "raw", "-A", "PREROUTING", "-j", "RETURN")
	n.MustRun("iptables", "-t", "raw", "-D", "PREROUTING", "-j", "RETURN")
}

// natSource is one that asks for a mapped port.
type natSource struct {
	name    string
	from    *host.Namespace
	address string // asked for
	sees    string // the source address that the container is to see; "": it gets no answer
}

// sources are all that ask for a port mapped on hostIP ("": all addresses).
func (n natNet) sources(ipv4 bool, hostIP string) []natSource {
	address, loopback, outside := host.HostIPv6.Addr().String(), "::1", host.OutsideIPv6.Addr().String()
	gateway, other := "fd00:1::1", "fd00:2::7"
	if ipv4 {
		address, loopback, outside = host.HostIPv4.Addr().String(), "127.0.0.1", host.OutsideIPv4.Addr().String()
		gateway, other = "10.1.0.1", "10.2.0.7"
	}
	sources := []natSource{
		{"another host", n.Outside, address, outside},
		{"the host by its address", n.Namespace, address, address},
		{"the host by its loopback address", n.Namespace, loopback, gateway},
		{"the container itself", n.c1.Namespace, address, gateway},
		{"a neighbour on the bridge", n.neighbour.Namespace, address, gateway},
		{"a container on another bridge", n.other.Namespace, address, other},
	}
	for i, s := range sources {
		mapped := hostIP == "" || hostIP == s.address
		if !mapped || s.address == "::1" { // which the kernel never forwards
			sources[i].sees = ""
		}
	}
	return sources
}

// TestNATTraffic is who reaches a mapped port, and with which address.
func TestNATTraffic(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		for _, brNetfilter := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/br_netfilter=%v", backend, brNetfilter), func(t *testing.T) {
				t.Parallel()
				testNATTraffic(t, newNATNet(t, brNetfilter), backend)
			})
		}
	}
}

func testNATTraffic(t *testing.T, n natNet, backend string) {
	hostIPs := []string{"", "127.0.0.1", host.HostIPv4.Addr().String(), host.HostIPv6.Addr().String()}
	var mappings []string
	for i, hostIP := range hostIPs {
		mappings = append(mappings, natMapping("tcp", hostIP, 8080+i, 80), natMapping("udp", hostIP, 8080+i, 80))
	}
	n.mapPorts(t, fmt.Sprintf(`"backend": %q`, backend), mappings...)
	var wait sync.WaitGroup
	for i, hostIP := range hostIPs {
		for _, ipv4 := range []bool{true, false} {
			if hostIP != "" && netip.MustParseAddr(hostIP).Is4() != ipv4 {
				continue
			}
			for _, s := range n.sources(ipv4, hostIP) {
				for _, protocol := range []string{"tcp", "udp"} {
					wait.Go(func() { s.ask(t, protocol, 8080+i, hostIP) })
				}
			}
		}
	}
	wait.Wait()
}

// ask asks for a port that is mapped on hostIP.
func (s natSource) ask(t *testing.T, protocol string, port int, hostIP string) {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr(s.address), uint16(port)).String()
	reply, err := s.from.Expecting(s.sees != "").Request(protocol, to)
	what := fmt.Sprintf("%s to %s %s, mapped on %q", s.name, protocol, to, hostIP)
	switch {
	case s.sees == "" && err == nil:
		t.Errorf("%s: got an answer from %s, want none", what, reply.Server)
	case s.sees != "" && (err != nil || reply.Server != "c1" || reply.Seen.Addr().String() != s.sees):
		t.Errorf("%s: got %v, %v, want c1 to see %s", what, reply, err, s.sees)
	}
}
