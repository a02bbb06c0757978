package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/hosts"
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
