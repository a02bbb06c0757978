package nat

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/golden"
)

// track adds a flow from a client's port to conntrack.
func track(t *testing.T, protocol Protocol, clientPort uint16, to, answers string) {
	t.Helper()
	client := netip.MustParseAddr("192.0.2.99")
	asked, answering := netip.MustParseAddrPort(to), netip.MustParseAddrPort(answers)
	family := netlink.InetFamily(unix.AF_INET)
	if !asked.Addr().Is4() {
		client, family = netip.MustParseAddr("2001:db8::99"), unix.AF_INET6
	}
	tuple := func(from, to netip.AddrPort) netlink.IPTuple {
		return netlink.IPTuple{
			SrcIP: net.IP(from.Addr().AsSlice()), SrcPort: from.Port(), DstIP: net.IP(to.Addr().AsSlice()), DstPort: to.Port(), Protocol: protocol.number(),
		}
	}
	from := netip.AddrPortFrom(client, clientPort)
	must(t, netlink.ConntrackCreate(netlink.ConntrackTable, family, &netlink.ConntrackFlow{
		FamilyType: uint8(family), Forward: tuple(from, asked), Reverse: tuple(answering, from), TimeOut: 1000,
	}))
}

// tracked returns the flows that exist, as destination and source of the answers.
func tracked(t *testing.T) map[string]int {
	t.Helper()
	left := map[string]int{}
	for _, f := range families() {
		tracker, err := openTracker()
		must(t, err)
		for _, protocol := range []Protocol{UDP, SCTP} {
			flows, err := tracker.list(f, flowFilter{protocol: protocol.number()})
			must(t, err)
			for _, flow := range flows {
				left[fmt.Sprintf("%s %s by %s", protocol, flow.to, flow.answers)]++
			}
		}
		must(t, tracker.close())
	}
	return left
}

// TestForgetFlows: of UDP and of SCTP, those to the mapping go, and no others.
func TestForgetFlows(t *testing.T) {
	for _, protocol := range []Protocol{UDP, SCTP} {
		t.Run(string(protocol), func(t *testing.T) {
			golden.EnterNetNS(t)
			run(t, "ip", "address", "add", "192.0.2.1/24", "dev", "lo")
			other := map[Protocol]Protocol{UDP: SCTP, SCTP: UDP}[protocol]
			for client := range uint16(5) {
				track(t, protocol, 1000+client, "192.0.2.1:8080", "192.0.2.1:8080")         // from before the mapping
				track(t, protocol, 2000+client, "192.0.2.1:8080", "10.1.0.5:80")            // to the container
				track(t, protocol, 3000+client, "198.51.100.7:8080", "198.51.100.7:8080")   // another machine's
				track(t, protocol, 4000+client, "192.0.2.1:8081", "10.1.0.5:80")            // another port
				track(t, protocol, 5000+client, "[2001:db8::1]:8080", "[2001:db8::1]:8080") // not the host's
				track(t, other, 1000+client, "192.0.2.1:8080", "192.0.2.1:8080")            // another protocol
			}
			mappings := []Mapping{mapping(protocol, "0.0.0.0:8080", "10.1.0.5:80"), mapping(TCP, "0.0.0.0:8081", "10.1.0.5:80")}
			want := tracked(t)
			must(t, forgetFlows(mappings, staleAtAdd))
			delete(want, string(protocol)+" 192.0.2.1:8080 by 192.0.2.1:8080")
			if got := tracked(t); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("after ADD: got %v, want %v", got, want)
			}
			must(t, forgetFlows(mappings, staleAtDel))
			delete(want, string(protocol)+" 192.0.2.1:8080 by 10.1.0.5:80")
			if got := tracked(t); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("after DEL: got %v, want %v", got, want)
			}
			if len(want) != 4 {
				t.Fatalf("got %v, want four kinds of flows left", want)
			}
		})
	}
}

// TestFlowsAreFilteredByTheKernel: of many flows the kernel lists only those to the port.
func TestFlowsAreFilteredByTheKernel(t *testing.T) {
	golden.EnterNetNS(t)
	const others = 500
	for client := range uint16(others) {
		track(t, UDP, 1000+client, "192.0.2.1:9999", "10.1.0.9:99")
	}
	track(t, UDP, 1, "192.0.2.1:8080", "10.1.0.5:80")
	tracker, err := openTracker()
	must(t, err)
	defer func() { must(t, tracker.close()) }()
	for _, test := range []struct {
		ports int
		want  int
	}{{1, 1}, {maxQuestions + 1, others + 1}} {
		var mappings []Mapping
		for i := range test.ports {
			mappings = append(mappings, mapping(UDP, fmt.Sprintf("0.0.0.0:%d", 8080+i), "10.1.0.5:80"))
		}
		got := 0
		for _, asked := range questions(mappings) {
			flows, err := tracker.list(family4(), asked)
			must(t, err)
			got += len(flows)
		}
		if got != test.want {
			t.Errorf("%d ports: the kernel told of %d flows, want %d", test.ports, got, test.want)
		}
	}
}
