// Command demo shows Trestle's default network at work: on a throw-away host in
// namespaces of its own, two containers are attached by cnitool, talk to each
// other, to their gateway and to the outside, and are detached without a trace.
// It exits with 1 at the first thing that is not as it should be.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/test/host"
)

func main() { os.Exit(host.Program(demo)) }

// keptOnPurpose begins the dump's lines of what stays of a network: host-local's
// cursor, so that an address is not given to the next container at once, and its
// index of what is taken; the bridge with its gateway addresses, which the next
// container finds ready. Nothing of these tells of a container.
func keptOnPurpose() []string {
	const dir = "file /var/lib/cni/networks/trestle"
	kept := []string{dir + "/last_reserved_ip.", dir + "/.trestle/index ", dir + "/.trestle/used.", "file /run/trestle/bridge/"}
	for _, line := range []string{
		"link %s ", "address %s ", "sysctl net/ipv6/conf/%s/", "fdb 02:74:72:",
		"route broadcast 10.22.255.255 dev %s ", "route local 10.22.0.1 dev %s ", "route unicast 10.22.0.0/16 dev %s ",
		"route unicast fd6c:4ae9:71d3:22::/64 dev %s ",
	} {
		kept = append(kept, strings.ReplaceAll(line, "%s", "trestle0"))
	}
	return kept
}

func demo(t host.T) {
	s := &show{T: t, h: host.New(t)}
	s.title("A host, and another one outside (namespaces; nothing of this machine is touched)")
	s.h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	list, err := fs.ReadFile(conflist.Files, conflist.Default)
	if err != nil {
		t.Fatalf("read the default network: %v", err)
	}
	s.h.InstallNetwork(conflist.Default, string(list))
	s.say("%s is in /etc/cni/net.d", conflist.Default)
	before := s.h.Dump()

	s.title("Two containers on the network")
	s.attach("c1", `{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`)
	s.attach("c2", "")

	s.title("Who reaches whom")
	s.reachAll()

	s.title("The picture")
	s.picture()

	s.title("Both detached; the bridge stays, until GC is told that nobody is left")
	s.detach()
	s.say("$ ip -brief address show %s", s.attachments[0].bridge)
	s.say("%s", strings.TrimSpace(s.h.MustRun("ip", "-brief", "address", "show", s.attachments[0].bridge)))
	s.collect(list)
	if diff := host.Diff(before, s.h.Dump(), keptOnPurpose()...); diff != "" {
		t.Fatalf("the host is not as it was (-before +after):\n%s", diff)
	}
	s.say("links, addresses, routes, rules, settings and files of the host are as they were,")
	s.say("but for what is the network's own: a bridge for the next container, and the cursor, which puts off")
	s.say("the reuse of addresses; no lease")
}

// show is the demonstration under way.
type show struct {
	host.T
	h           *host.Host
	attachments []attachment
}

// attachment is a container and what cnitool answered.
type attachment struct {
	*host.Container
	caps      string // CAP_ARGS, or ""
	before    string // its state before
	bridge    string
	addresses []netip.Prefix
	gateways  []netip.Addr
}

func (s *show) title(text string)              { fmt.Printf("\n%s\n", text) }
func (s *show) say(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

// cnitool runs it and prints how a person would call it.
func (s *show) cnitool(verb string, a attachment) string {
	var env []string
	shown := ""
	if a.caps != "" {
		env, shown = []string{"CAP_ARGS=" + a.caps}, "CAP_ARGS='"+a.caps+"' "
	}
	s.say("$ %scnitool %s trestle %s", shown, verb, a.NetNS)
	output := s.h.Cnitool(verb, "trestle", a.NetNS, env...)
	if output.Code != 0 {
		s.Fatalf("cnitool %s: exit status %d\n%s%s", verb, output.Code, output.Stdout, output.Stderr)
	}
	return output.Stdout
}

func (s *show) attach(id, caps string) {
	a := attachment{Container: s.h.Container(id), caps: caps}
	a.before = a.Dump()
	if err := a.read(s.cnitool("add", a)); err != nil {
		s.Fatalf("%v", err)
	}
	s.say("  %s is on %s with %s", id, a.bridge, and(a.addresses))
	s.attachments = append(s.attachments, a)
}

// read takes from a result what the demonstration shows.
func (a *attachment) read(stdout string) error {
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Address netip.Prefix
			Gateway netip.Addr
		}
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		return fmt.Errorf("result %q: %w", stdout, err)
	}
	if len(result.Interfaces) != 3 || len(result.IPs) != 2 {
		return fmt.Errorf("got %d interfaces and %d addresses, want 3 and 2: %s", len(result.Interfaces), len(result.IPs), stdout)
	}
	a.bridge = result.Interfaces[0].Name
	for _, ip := range result.IPs {
		a.addresses = append(a.addresses, ip.Address)
		a.gateways = append(a.gateways, ip.Gateway)
	}
	return nil
}

func (s *show) reachAll() {
	c1, c2 := s.attachments[0], s.attachments[1]
	outside := []netip.Addr{host.OutsideIPv4.Addr(), host.OutsideIPv6.Addr()}
	hosts := []netip.Addr{host.HostIPv4.Addr(), host.HostIPv6.Addr()}
	s.h.Outside.Serve("tcp", ":80")
	c1.Serve("tcp", ":80")
	for family := range c1.addresses {
		s.ping(c1, "its neighbour c2", c2.addresses[family].Addr())
		s.ping(c2, "its gateway", c2.gateways[family])
		s.request(c1.Namespace, "outside", netip.AddrPortFrom(outside[family], 80), hosts[family])
		s.request(s.h.Outside, "c1", netip.AddrPortFrom(hosts[family], 8080), outside[family])
	}
}

func (s *show) ping(from attachment, whom string, address netip.Addr) {
	if err := from.Ping(address); err != nil {
		s.Fatalf("%v", err)
	}
	s.say("%-8s pings %-18s %s", from.ID, whom, address)
}

// request asks a server and demands that it sees the client as `as`.
func (s *show) request(from *host.Namespace, server string, target netip.AddrPort, as netip.Addr) {
	reply, err := from.Request("tcp", target.String())
	if err != nil {
		s.Fatalf("%v", err)
	}
	if reply.Server != server || reply.Seen.Addr() != as {
		s.Fatalf("%s asked %s: %s answered and saw %s, want %s to see %s", from.Name, target, reply.Server, reply.Seen.Addr(), server, as)
	}
	s.say("%-8s asks %s: %s answers, and saw %s", from.Name, target, server, reply.Seen.Addr())
}

func (s *show) picture() {
	s.say("$ trestle topology")
	for line := range strings.Lines(s.h.MustRun(filepath.Join(s.h.Dirs().Trestle, "trestle"), "topology")) {
		s.say("%s", strings.TrimSuffix(line, "\n"))
	}
	s.say("")
	for line := range strings.Lines(s.h.Dump()) {
		if rule, ok := strings.CutPrefix(line, "nft "); ok {
			s.say("%s", strings.ReplaceAll(strings.TrimSuffix(rule, "\n"), "\t", "  "))
		}
	}
}

// collect calls GC with an empty list, as runtimes do.
func (s *show) collect(list []byte) {
	var network struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(list, &network); err != nil {
		s.Fatalf("read the default network: %v", err)
	}
	config := network.Plugins[0]
	config["cniVersion"], config["name"], config["cni.dev/valid-attachments"] = "1.1.0", network.Name, []any{}
	stdin, err := json.Marshal(config)
	if err != nil {
		s.Fatalf("configuration for GC: %v", err)
	}
	plugin, _ := config["type"].(string) // a list without would have failed before
	s.say(`$ CNI_COMMAND=GC %s <<< '{…, "cni.dev/valid-attachments": []}'`, plugin)
	if err := s.h.Exec(host.Call{Plugin: plugin, Command: "GC", Config: string(stdin)}).Err(); err != nil {
		s.Fatalf("GC: %v", err)
	}
}

// and lists the two of a dual-stack pair.
func and[A any](addresses []A) string { return fmt.Sprint(addresses[0], " and ", addresses[1]) }

func (s *show) detach() {
	for _, a := range s.attachments {
		s.cnitool("del", a)
		if diff := host.Diff(a.before, a.Dump()); diff != "" {
			s.Fatalf("%s is not as it was (-before +after):\n%s", a.ID, diff)
		}
		a.Remove()
	}
}
