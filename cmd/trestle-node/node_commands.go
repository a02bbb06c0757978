package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

func newStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "How this host stands: its subnets, its peers and how they are reached, what is amiss",
		Long: `How this host stands. The exit status is 0 where it is ready or drained, connected to its store or not, and 1
where it is not running, not ready yet, suspects its store, was fenced, is too old for the cluster, or is leaving and not done with it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return status(cmd) },
	}
}

func status(cmd *cobra.Command) error {
	s, err := readStatus()
	if err != nil {
		return err
	}
	if s.State != hosts.Left && !s.Running() {
		s.State, s.Why = hosts.Stopped, "trestle-node does not run; the network is as it was when it ended"
	}
	var text strings.Builder
	printStatus(&text, s)
	if err := answer(cmd, s, text.String()); err != nil {
		return err
	}
	if s.State != hosts.Ready && s.State != hosts.Drained && s.State != hosts.Left {
		return errSaid
	}
	return nil
}

func printStatus(out io.Writer, s Status) {
	fmt.Fprintf(out, "%s (%s): %s\n", s.Name, s.ID, s.State)
	if s.Why != "" {
		fmt.Fprintf(out, "  %s\n", s.Why)
	}
	how := "connected"
	if !s.Store.Connected {
		how = "not connected"
	}
	fmt.Fprintf(out, "store: %s, %s since %s\n", s.Store.Name, how, s.Store.Since.Format(time.RFC3339))
	for _, o := range s.Subnets {
		fmt.Fprintf(out, "subnet: %s of %s\n", o.Subnet, o.Network)
	}
	for _, o := range s.Lost {
		fmt.Fprintf(out, "lost: %s of %s is another host's\n", o.Subnet, o.Network)
	}
	for _, c := range s.Restart {
		fmt.Fprintf(out, "restart: container %s, which has %s of %s\n", c.ID, c.Address, c.Network)
	}
	fmt.Fprintf(out, "uplink: %s; MTU of containers %d; repairs: %d; packets of strangers dropped: %d\n", s.Uplink, s.MTU, s.Repairs, s.Strangers)
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(s.Peers) > 0 {
		fmt.Fprintln(table, "PEER\tADDRESS\tWAY\tMTU\tSEEN\tSUBNETS\t")
	}
	for _, p := range s.Peers {
		note := ""
		if p.Missing {
			note = "missing from the store; kept"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", p.Name, spaced(p.Underlay), s.Shown(p), p.MTU, seen(p), spacedSubnets(p.Subnets), note)
	}
	_ = table.Flush() // to standard output
	for _, p := range s.Problems {
		fmt.Fprintf(out, "problem: %s\n", p)
	}
}

// seen is when the peer has given a sign of life.
func seen(p PeerInfo) string {
	if p.Seen.IsZero() {
		return "-"
	}
	return p.Seen.Format(time.RFC3339)
}

func spacedSubnets(all []hosts.Subnet) string {
	var texts []string
	for _, s := range all {
		texts = append(texts, s.Subnet.String())
	}
	return strings.Join(texts, " ")
}

func spaced[A fmt.Stringer](all []A) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " ")
}

func newLeaveCommand() *cobra.Command {
	var force, local bool
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Take this host out of the network: give its subnets back and remove what is ours",
		Long: `Take this host out of the network: its routes, tunnel and network lists are removed, and its subnets are given
back. It is refused while containers have addresses, unless it is forced. Where the store does not answer the host is cleaned up
all the same, and the agent tells the store when it does. What could not be removed is named, with exit status 1, and the next
leave goes on with it.

--local makes this host forget a cluster that is gone for good, with the agent stopped.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if local {
				return leaveLocally(cmd, force)
			}
			return callAndPrint(cmd, "leave", force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "although containers have addresses")
	cmd.Flags().BoolVar(&local, "local", false, "tell no store; with trestle-node stopped")
	return cmd
}

// forget removes what is ours from this host, and then the files, so that one which fails
// is done again by the next. It is for a host whose agent does not run, and asks neither
// node.json nor the store: where a DaemonSet is gone, node.json is, too. may refuses.
func forget(may func(*agent) error, files ...string) (cluster.State, brought, error) {
	lock, err := lockNode()
	if err != nil {
		return cluster.State{}, brought{}, err
	}
	defer func() { _ = lock.Unlock() }() // ends with the process
	state, err := cluster.ReadState(statePath)
	if err != nil {
		return state, brought{}, err
	}
	key, _ := readWireGuardKey() // without it the device is told by its alias alone
	a := &agent{kernel: &kernel{key: key}, member: &cluster.Member{State: state}}
	if err := may(a); err != nil {
		return state, brought{}, err
	}
	here := a.kernel.removeOnce(wanted{id: state.ID, config: state.Config, gone: true})
	if here.err != nil {
		return state, here, fmt.Errorf("something is left on this host: %w; put that right, and do this again", here.err)
	}
	for _, path := range files {
		if err := os.Remove(path); err != nil && !isMissing(err) {
			return state, here, err
		}
	}
	return state, here, nil
}

// leaveLocally keeps the id.
func leaveLocally(cmd *cobra.Command, force bool) error {
	state, here, err := forget(func(a *agent) error { return a.mayLeave(force) }, statePath)
	if err != nil {
		return err
	}
	return say(cmd, "forgotten%s; the store, if there is one, still lists this host: trestle cluster release --node-is-dead %s", inUse(here), cmp.Or(state.Name, "NAME"))
}

func callAndPrint(cmd *cobra.Command, operation string, force bool) error {
	said, err := call(cmd.Context(), operation, force)
	if err != nil {
		return err
	}
	return answer(cmd, said, said.Message+"\n"+listOf(said.Containers))
}

func newDrainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "drain", Short: "Keep new containers away; those that run stay", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return callAndPrint(cmd, "drain", false) },
	}
}

func newUndrainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "undrain", Short: "Let the runtime start containers again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return callAndPrint(cmd, "undrain", false) },
	}
}

func newAcceptCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "accept",
		Short: "Believe that peers which the store does not list are gone, and that lost subnets are lost",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return callAndPrint(cmd, "accept", force) },
	}
	cmd.Flags().BoolVar(&force, "force", false, "although containers have addresses of lost subnets")
	return cmd
}

func newResetIDCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reset-id",
		Short: "Make this host a host of its own, after its disk was copied from another's",
		Long: `Make this host a host of its own, after its disk was copied from another's, with trestle-node stopped. It gets
another id and forgets the subnets, which are the other's; its containers must be restarted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Its containers' addresses are the other's, so that they keep it from nothing.
			_, here, err := forget(func(*agent) error { return nil }, statePath, idPath, keyPath)
			if err != nil {
				return err
			}
			return say(cmd, "this host has a new id at the next start of trestle-node; give it another name, too, if it has one in node.json%s", inUse(here))
		},
	}
}
