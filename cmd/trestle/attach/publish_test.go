package attach

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/cni"
)

func TestParsePublish(t *testing.T) {
	one := netip.MustParseAddr
	for text, want := range map[string][]Publication{
		"8080:80":             {{"tcp", netip.Addr{}, 8080, 8080, 80}},
		"80":                  {{"tcp", netip.Addr{}, 0, 0, 80}},
		"53/udp":              {{"udp", netip.Addr{}, 0, 0, 53}},
		"9-10:1-2/sctp":       {{"sctp", netip.Addr{}, 9, 9, 1}, {"sctp", netip.Addr{}, 10, 10, 2}},
		"8080-8090:80":        {{"tcp", netip.Addr{}, 8080, 8090, 80}},
		"127.0.0.1:8080:80":   {{"tcp", one("127.0.0.1"), 8080, 8080, 80}},
		"127.0.0.1::80":       {{"tcp", one("127.0.0.1"), 0, 0, 80}},
		"[::1]:8080:80/udp":   {{"udp", one("::1"), 8080, 8080, 80}},
		"0.0.0.0:8080:80/tcp": {{"tcp", netip.Addr{}, 8080, 8080, 80}},
	} {
		got, err := ParsePublish([]string{text})
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
			t.Errorf("%s: got %v (-want +got):\n%s", text, err, diff)
		}
	}
	for _, text := range []string{"", "x", "80:", ":", "70000", "0", "8080:0", "1.2.3:80:80", "host:80:80", "80/icmp", "9-8:1-2", "8-9:1-3", "-1:80"} {
		got, err := ParsePublish([]string{text})
		if err == nil || !strings.Contains(err.Error(), "--publish") || cni.CodeOf(err) != cni.CodeConfig {
			t.Errorf("%q: got %+v, %v, want a user's mistake", text, got, err)
		}
	}
	for _, pair := range []struct {
		texts   []string
		clashes bool
	}{
		{[]string{"80:80", "80:81"}, true},
		{[]string{"127.0.0.1:80:80", "80:81"}, true},
		{[]string{"127.0.0.1:80:80", "192.0.2.1:80:81"}, false},
		{[]string{"[::1]:80:80", "127.0.0.1:80:81"}, false},
		{[]string{"80:80", "80:80/udp"}, false},
		{[]string{"80", "80"}, false},
	} {
		if _, err := ParsePublish(pair.texts); (err != nil) != pair.clashes {
			t.Errorf("%v: got %v, want a clash: %v", pair.texts, err, pair.clashes)
		}
	}
}

// TestChoose: where the host port is left open, a different one is chosen for each, which neither
// a container nor a process has; of a range the first free one is chosen.
func TestChoose(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	busy, port, err := hold(Publication{Protocol: "tcp", HostIP: local}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	held := &inventory.Snapshot{Attachments: []inventory.Attachment{{
		Network: "n", Container: "holder",
		Ports: []inventory.Port{{Protocol: "tcp", Host: netip.AddrPortFrom(netip.IPv4Unspecified(), port+1)}},
	}}}
	got, err := choose([]Publication{
		{"tcp", local, 0, 0, 80}, {"tcp", local, 0, 0, 81}, {"tcp", local, port, port + 20, 82},
	}, held)
	if err != nil {
		t.Fatal(err)
	}
	defer got.release()
	m := got.mappings
	if m[0].HostPort == 0 || m[0].HostPort == m[1].HostPort || m[2].HostPort < port+2 || m[2].HostPort > port+20 {
		t.Errorf("got %+v; %d is a process's, and %d a container's", m, port, port+1)
	}
	if _, err := choose([]Publication{{"tcp", local, port + 1, port + 1, 80}}, held); err == nil || !strings.Contains(err.Error(), "holder") {
		t.Errorf("got %v, want it to name the holder", err)
	}
}
