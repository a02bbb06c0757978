package hosts

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestClock (row 27): the clock is set a day ahead, two days back, and right again. Nobody notices: audits
// and heartbeats come as before, hosts are alive for each other, nothing is taken away, and
// who comes is followed. There is one clock for all namespaces, hence the machine of
// `make test-vm`.
func TestClock(t *testing.T) {
	if os.Getenv("TRESTLE_VM") == "" {
		t.Skip("it sets the clock, which this machine needs; `make test-vm` has one of its own")
	}
	n := newNetwork(t, 1, "a", "b")
	n.Reach(n.containers[0], n.containers[1])
	before := map[string]lab.Status{}
	for _, h := range n.hosts {
		before[h.Name] = n.Ready(h.Host, 1)
	}
	for i, jump := range []time.Duration{24 * time.Hour, -48 * time.Hour, 24 * time.Hour} {
		now := unix.NsecToTimeval(time.Now().Add(jump).UnixNano())
		if err := unix.Settimeofday(&now); err != nil {
			t.Fatal(err)
		}
		n.looks(n.hosts[0], 3) // audits go on
		if err := n.etcd.Ctl("del", prefix+"nodes/"+before["b"].ID); err != nil {
			t.Fatal(err)
		}
		if err := n.etcd.Ctl("put", fmt.Sprint(prefix, "nodes/ghost", i), n.record(fmt.Sprint("ghost", i), i, "")); err != nil {
			t.Fatal(err)
		}
		n.Eventually("b's heartbeat finds its record gone, and both are alive", func() error {
			keys, err := n.etcd.Out("get", "--prefix", "--keys-only", prefix)
			if err == nil && (!strings.Contains(keys, "nodes/"+before["b"].ID) || strings.Count(keys, "alive/") != 2) {
				err = fmt.Errorf("got %s", keys)
			}
			return err
		})
		for _, h := range n.hosts {
			s, was := n.Ready(h.Host, 2+i), before[h.Name]
			if s.PID != was.PID || s.Repairs != 0 || fmt.Sprint(s.Subnets) != fmt.Sprint(was.Subnets) || len(s.Lost) > 0 {
				t.Errorf("clock by %v: %s has %+v, and had %+v", jump, h.Name, s, was)
			}
		}
		n.Reach(n.containers[1], n.containers[0])
	}
	for _, h := range n.hosts {
		if log := h.Kill(); strings.Contains(log, "SUSPECT") || strings.Contains(log, "FENCED") || strings.Contains(log, "repair") {
			t.Errorf("%s: got log\n%s", h.Name, log)
		}
	}
}

// looks waits until the agent has looked at its kernel so many times.
func (n *network) looks(h *lab.Agent, times int) {
	n.Helper()
	seen := map[string]bool{}
	n.Await(h.Host, fmt.Sprint(times, " looks"), func(s lab.Status) bool {
		seen[s.Updated] = true
		return len(seen) > times
	})
}
