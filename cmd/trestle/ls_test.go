package main

import (
	"testing"
	"time"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

func snapshotAt(at time.Time, rx uint64, containers ...string) *inventory.Snapshot {
	s := &inventory.Snapshot{Time: at}
	for _, c := range containers {
		s.Attachments = append(s.Attachments, inventory.Attachment{Network: "n", Container: c, IfName: "eth0", Traffic: inventory.Traffic{RxBytes: rx, TxBytes: 10}})
	}
	return s
}

// TestRatesSince: traffic per second; none for an attachment that is new, or whose counters
// started again from zero.
func TestRatesSince(t *testing.T) {
	at := time.Now()
	got := ratesSince(snapshotAt(at, 1000, "a", "b"), snapshotAt(at.Add(2*time.Second), 5000, "a", "c"))
	if want := (rate{Rx: 2000}); len(got) != 1 || got["n/a/eth0"] != want {
		t.Errorf("got %+v, want %+v of a", got, want)
	}
	if got := ratesSince(snapshotAt(at, 1000, "a"), snapshotAt(at.Add(time.Second), 10, "a")); len(got) != 0 {
		t.Errorf("got %+v, want none of another interface", got)
	}
	if got := ratesSince(nil, snapshotAt(at, 1, "a")); got == nil || len(got) != 0 {
		t.Errorf("got %+v, want none yet", got)
	}
}
