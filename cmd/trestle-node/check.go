package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
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
			faults := checkPeers(cmd.Context(), cmd.OutOrStdout(), s)
			found, err := obstacles()
			if err != nil {
				return err
			}
			for _, f := range found {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			if faults+len(found) > 0 {
				return errSaid
			}
			return nil
		},
	}
}

func checkPeers(ctx context.Context, out io.Writer, s Status) (faults int) {
	for _, p := range s.Peers {
		target, size := probe(s, p)
		if !target.IsValid() {
			fmt.Fprintf(out, "%s: no way to it (%s)\n", p.Name, p.Way)
			faults++
			continue
		}
		said, err := exec.CommandContext(ctx, "ping", "-n", "-c1", "-W3", "-M", "do", "-s", strconv.Itoa(size), target.String()).CombinedOutput()
		if err != nil {
			fmt.Fprintf(out, "%s: no answer from %s to a packet of full size, by %s: %s\n", p.Name, target, p.Way, firstFault(string(said)))
			faults++
			continue
		}
		fmt.Fprintf(out, "%s: fine, by %s\n", p.Name, p.Way)
	}
	return faults
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
	case string(overlay.ByTunnel), string(overlay.ByWireGuard):
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
	var found []string
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
