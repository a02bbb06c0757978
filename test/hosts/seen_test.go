package hosts

import (
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestSeen: a host knows when each other one has given a sign of life.
func TestSeen(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	n.Await(n.hosts[0].Host, "b was seen", func(s lab.Status) bool { return len(s.Peers) == 1 && !s.Peers[0].Seen.IsZero() })
}
