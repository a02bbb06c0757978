package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestCheckNeedsPing: without ping, or with one that cannot forbid fragmentation, the answer says
// that, and not that peers do not answer.
func TestCheckNeedsPing(t *testing.T) {
	s := hosts.Status{MTU: 1450, Peers: []hosts.Peer{{Name: "b", Way: hosts.Direct, Subnets: []hosts.Subnet{{Network: "pods", Subnet: netip.MustParsePrefix("10.40.2.0/24")}}}}}
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	const want = "needs the ping of iputils"
	if got := checkPeers(context.Background(), s)[0].Fault; !strings.Contains(got, want) || strings.Contains(got, "no answer") {
		t.Errorf("no ping: got %q, want %q", got, want)
	}
	const busybox = "#!/bin/sh\necho \"ping: invalid option -- 'M'\" >&2\necho 'BusyBox v1.36.1' >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "ping"), []byte(busybox), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := checkPeers(context.Background(), s)[0].Fault; !strings.Contains(got, want) || strings.Contains(got, "no answer") {
		t.Errorf("BusyBox's ping: got %q, want %q", got, want)
	}
}

// TestCheckSaysWhatIsWrong: a peer that answers in both families is fine in one line, and of
// another there are its faults.
func TestCheckSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := checked{Peers: []checkedPeer{
		{Name: "b", Way: "direct"},
		{Name: "b", Way: "direct"},
		{Name: "c", Way: "direct"},
		{Name: "c", Way: "direct", Fault: "no answer from fd40::1", Cause: "a cloud"},
	}}
	if got, want := c.String(), c.mesh.String()+"b: fine, by direct\nc: no answer from fd40::1; a cloud\n"; got != want || c.fine() {
		t.Errorf("got %q, fine: %v, want %q", got, c.fine(), want)
	}
}

// TestObstacles: what is off of the families that this host has subnets of is named.
func TestObstacles(t *testing.T) {
	golden.EnterNetNS(t)
	forward := func(family, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	subnets := func(prefixes ...string) (s hosts.Status) {
		for _, p := range prefixes {
			s.Subnets = append(s.Subnets, hosts.Subnet{Network: "pods", Subnet: netip.MustParsePrefix(p)})
		}
		return s
	}
	const v4, v6 = "net.ipv4.ip_forward is off", "net.ipv6.conf.all.forwarding is off"
	for _, test := range []struct {
		ipv4, ipv6 string
		status     hosts.Status
		want       string
	}{
		{"0", "0", subnets(), ""},
		{"0", "0", subnets("10.40.2.0/24"), v4},
		{"0", "0", subnets("fd40::/64", "fd41::/64"), v6},
		{"0", "0", subnets("10.40.2.0/24", "fd40::/64"), v4 + ", " + v6},
		{"1", "0", subnets("10.40.2.0/24", "fd40::/64"), v6},
		{"1", "1", subnets("10.40.2.0/24", "fd40::/64"), ""},
	} {
		forward("ipv4", test.ipv4)
		forward("ipv6", test.ipv6)
		got, err := obstacles(test.status)
		said := strings.ReplaceAll(strings.Join(got, ", "), ": the host does not route for its containers", "")
		if err != nil || said != test.want {
			t.Errorf("%+v: got %q, %v", test, said, err)
		}
	}
}
