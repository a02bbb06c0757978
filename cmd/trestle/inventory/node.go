package inventory

import (
	"os"

	"github.com/trestle-cni/trestle/pkg/hosts"
)

// Node is the host's part in networks over several hosts, from the status file of its agent,
// trestle-node.
type Node struct {
	hosts.Status
	// Running says that the agent runs. If it does not, the network stays as it was.
	Running bool `json:"running"`
}

// States are the states that an agent may report.
func (Node) States() []string { return hosts.States() }

// WayTo is how the peer is reached, as the cluster's configuration calls it.
func (n Node) WayTo(p hosts.Peer) string {
	if p.Way == hosts.Tunnel && n.Tunnel != nil {
		return n.Tunnel.Kind
	}
	return p.Way
}

// Device is the link by which the peer is reached; "" if it is not reached.
func (n Node) Device(p hosts.Peer) string {
	switch {
	case p.Way == hosts.Direct:
		return n.Uplink
	case p.Way != hosts.None && n.Tunnel != nil:
		return n.Tunnel.Name
	}
	return ""
}

// RunsAgent says whether this host's agent runs.
func (s *Snapshot) RunsAgent() bool { return s.Node != nil && s.Node.Running }

// Peers are the other hosts; none without an agent.
func (s *Snapshot) Peers() []hosts.Peer {
	if s.Node == nil {
		return nil
	}
	return s.Node.Peers
}

// node reads the agent's status. A host that should run an agent has a node even if the
// agent has not run since boot.
func (t *taking) node() {
	status, err := hosts.Read(t.source.Node)
	t.problem(err)
	if status != nil {
		t.snapshot.Node = &Node{Status: *status, Running: status.Running()}
		return
	}
	if _, err := os.Stat(t.source.NodeSettings); err == nil {
		t.snapshot.Node = &Node{Status: hosts.Status{State: hosts.Stopped}}
	}
}
