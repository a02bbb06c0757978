package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Prove that this host reaches all others at full size, and name what is in the way",
		Long: `Send a packet of the full MTU, which may not be fragmented, to each other host, by the way that containers'
packets take, and look for settings of this host that would keep them back. Run it on each host. It needs ping.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readStatus()
			if err != nil {
				return err
			}
			c := checked{Peers: checkPeers(cmd.Context(), s)}
			if c.Obstacles, err = obstacles(); err != nil {
				return err
			}
			if err := answer(cmd, c, c.String()); err != nil {
				return err
			}
			if !c.fine() {
				return errSaid
			}
			return nil
		},
	}
}

// checked is what came of a check.
type checked struct {
	Peers     []checkedPeer `json:"peers"`
	Obstacles []string      `json:"obstacles"`
}

// checkedPeer is one peer; Fault is empty where it answers.
type checkedPeer struct {
	Name   string     `json:"name"`
	Way    string     `json:"way"`
	Target netip.Addr `json:"target,omitzero"`
	Size   int        `json:"size,omitempty"` // of the whole packet
	Fault  string     `json:"fault,omitempty"`
}

func (c checked) fine() bool {
	return len(c.Obstacles) == 0 && !slices.ContainsFunc(c.Peers, func(p checkedPeer) bool { return p.Fault != "" })
}

func (c checked) String() string {
	var text strings.Builder
	for _, p := range c.Peers {
		if p.Fault == "" {
			fmt.Fprintf(&text, "%s: fine, by %s\n", p.Name, p.Way)
		} else {
			fmt.Fprintf(&text, "%s: %s\n", p.Name, p.Fault)
		}
	}
	for _, o := range c.Obstacles {
		fmt.Fprintln(&text, o)
	}
	return text.String()
}

func checkPeers(ctx context.Context, s Status) []checkedPeer {
	all := []checkedPeer{}
	for _, p := range s.Peers {
		target, size := probe(s, p)
		c := checkedPeer{Name: p.Name, Way: s.Shown(p), Target: target, Size: s.MTU}
		if !target.IsValid() {
			c.Fault = fmt.Sprintf("no way to it (%s)", p.Way)
		} else if said, err := exec.CommandContext(ctx, "ping", "-n", "-c1", "-W3", "-M", "do", "-s", strconv.Itoa(size), target.String()).CombinedOutput(); err != nil {
			c.Fault = faultOf(c, string(said), err)
		}
		all = append(all, c)
	}
	return all
}

// probe is the address that answers for a peer, and how much a packet of full size
// holds: through the tunnel its address there, else that of its link.
func probe(s Status, p PeerInfo) (netip.Addr, int) {
	headers := func(a netip.Addr) int {
		if a.Is4() {
			return 28
		}
		return 48
	}
	switch p.Way {
	case string(overlay.ByTunnel):
		if len(p.Subnets) > 0 {
			a := p.Subnets[0].Subnet.Addr()
			return a, s.MTU - headers(a)
		}
	case string(overlay.Direct):
		if len(p.Underlay) > 0 {
			a := p.Underlay[0].Addr()
			return a, s.MTU - headers(a)
		}
	}
	return netip.Addr{}, 0
}

// faultOf says what a failed ping means.
func faultOf(c checkedPeer, said string, err error) string {
	if errors.Is(err, exec.ErrNotFound) || strings.Contains(said, "invalid option") || strings.Contains(said, "unrecognized option") {
		return "not looked at: that needs the ping of iputils (the package iputils-ping, or iputils), which can forbid that a packet is cut up (-M do)"
	}
	return fmt.Sprintf("no answer from %s to a packet of full size, by %s: %s", c.Target, c.Way, firstFault(said))
}

// firstFault is the line of ping's that says what went wrong.
func firstFault(said string) string {
	for line := range strings.Lines(said) {
		if strings.Contains(line, "From ") || strings.Contains(line, "error") || strings.Contains(line, "unreachable") {
			return strings.TrimSpace(line)
		}
	}
	return "nothing was heard"
}

// obstacles are settings of this host that keep packets between containers back.
func obstacles() ([]string, error) {
	found := []string{}
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && strings.TrimSpace(string(data)) != "1" {
		found = append(found, "net.ipv4.ip_forward is off: the host does not route for its containers")
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
