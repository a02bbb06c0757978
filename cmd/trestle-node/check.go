package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/nft"
)

func newCheckCommand() *cobra.Command {
	var flags storeFlags
	probing := true
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find problems between all hosts, and prove that this host reaches all others at full size",
		Long: `Check what the store has of all hosts: who is down, subnets or keys that two of them have, pairs of which one cannot
reach the other, releases that are too old, links of different MTU, clocks that differ.

Then send a packet of the full MTU, which may not be fragmented, from this host to each other one, of each family and by the way
that containers' packets take, and say what is likely in the way of one that is not answered; and look for settings of this host that would keep
packets back. That part is of this host alone: run it on each. It needs ping. --probe=false leaves it out.

The exit status is 0 if there are no problems (notes do not count), and 1 if there is one, or something could not be checked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return check(cmd, &flags, probing) },
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&probing, "probe", true, "send packets from this host to all others")
	return cmd
}

func check(cmd *cobra.Command, flags *storeFlags, probing bool) error {
	s, err := readStatus()
	if err != nil && probing && (flags.areNone() || cmd.Flags().Changed("probe")) {
		return err
	}
	c := checked{mesh: meshOf(cmd.Context(), flags, s), Peers: []checkedPeer{}, Obstacles: []string{}}
	switch {
	case !probing:
	case err != nil: // a machine without an agent, which can only ask the store
		c.Notes = append(c.Notes, finding{What: "no packet was sent from this host: " + err.Error()})
	default:
		c.Peers = checkPeers(cmd.Context(), s)
		if c.Obstacles, err = obstacles(s); err != nil {
			return err
		}
	}
	if err := answer(cmd, c, c.String()); err != nil {
		return err
	}
	if !c.fine() {
		return errSaid
	}
	return nil
}

// checked is the result of a check.
type checked struct {
	mesh
	Peers     []checkedPeer `json:"peers"`
	Obstacles []string      `json:"obstacles"`
}

// checkedPeer is one peer in one family; Fault is empty where it answers.
type checkedPeer struct {
	Name   string     `json:"name"`
	Way    string     `json:"way"`
	Target netip.Addr `json:"target,omitzero"`
	Size   int        `json:"size,omitempty"` // of the whole packet
	Fault  string     `json:"fault,omitempty"`
	// Cause is what likely drops the packets, and the way out.
	Cause string `json:"cause,omitempty"`
}

func (c checked) fine() bool {
	return c.mesh.fine() && len(c.Obstacles) == 0 && !slices.ContainsFunc(c.Peers, func(p checkedPeer) bool { return p.Fault != "" })
}

func (c checked) String() string {
	var text strings.Builder
	text.WriteString(c.mesh.String())
	said := map[string]bool{} // of a peer that is fine in both families once; of another its faults
	for _, p := range c.Peers {
		said[p.Name] = said[p.Name] || p.Fault != ""
	}
	for _, p := range c.Peers {
		switch {
		case p.Fault == "" && said[p.Name]:
		case p.Fault == "":
			said[p.Name] = true
			fmt.Fprintf(&text, "%s: fine, by %s\n", p.Name, p.Way)
		case p.Cause == "":
			fmt.Fprintf(&text, "%s: %s\n", p.Name, p.Fault)
		default:
			fmt.Fprintf(&text, "%s: %s; %s\n", p.Name, p.Fault, p.Cause)
		}
	}
	for _, o := range c.Obstacles {
		fmt.Fprintln(&text, o)
	}
	return text.String()
}

// obstacles are settings of this host that keep packets between containers back.
func obstacles(s hosts.Status) ([]string, error) {
	found := []string{}
	for _, o := range s.Subnets {
		setting := "net/ipv6/conf/all/forwarding"
		if o.Subnet.Addr().Is4() {
			setting = "net/ipv4/ip_forward"
		}
		text := strings.ReplaceAll(setting, "/", ".") + " is off: the host does not route for its containers"
		data, err := os.ReadFile("/proc/sys/" + setting)
		if err == nil && strings.TrimSpace(string(data)) != "1" && !slices.Contains(found, text) {
			found = append(found, text)
		}
	}
	conn := nft.Open(nftDir)
	defer conn.Close()
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		t := nft.Table{Family: family, Name: "filter"}
		drops, err := conn.Drops(t, "FORWARD")
		if err != nil {
			return nil, err
		}
		if drops {
			found = append(found, fmt.Sprintf("chain FORWARD of table %s drops what nobody lets through (Docker, ufw): let the pools through, with the firewall plugin or by iptables -A FORWARD -s POOL -j ACCEPT and -d POOL", t))
		}
	}
	return found, nil
}
