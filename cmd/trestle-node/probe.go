package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// probesAtOnce bounds how many pings run at the same time: each waits for its answer.
const probesAtOnce = 16

// checkPeers sends a packet of full size to each peer, one of each family.
func checkPeers(ctx context.Context, s hosts.Status) []checkedPeer {
	if !overlay.HasIPv6() { // the subnet of IPv6 that this host may have is of no use to it
		s.Subnets = slices.DeleteFunc(slices.Clone(s.Subnets), func(o hosts.Subnet) bool { return o.Subnet.Addr().Is6() })
	}
	var probes []probe
	for _, p := range s.Peers {
		probes = append(probes, probesOf(s, p)...)
	}
	all := make([]checkedPeer, len(probes))
	turns := make(chan struct{}, probesAtOnce)
	var done sync.WaitGroup
	for i, p := range probes {
		done.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			all[i] = p.check(ctx, s)
		})
	}
	done.Wait()
	return all
}

// probe is the address that is asked for a peer, and the one to ask from, where that matters.
// Without a target there is no way to the peer.
type probe struct {
	of           hosts.Peer
	target, from netip.Addr
}

func (p probe) check(ctx context.Context, s hosts.Status) checkedPeer {
	c := checkedPeer{Name: p.of.Name, Way: s.Shown(p.of), Target: p.target, Size: s.MTU}
	if !p.target.IsValid() {
		c.Fault = fmt.Sprintf("no way to it (%s)", p.of.Way)
		c.Cause = "trestle node status says why"
		return c
	}
	said, err := ping(ctx, p.target, s.MTU, p.from)
	if err == nil || refusedBy(p.of, said) {
		return c
	}
	if errors.Is(err, exec.ErrNotFound) || strings.Contains(said, "invalid option") || strings.Contains(said, "unrecognized option") {
		c.Fault = "not checked: that needs the ping of iputils (the package iputils-ping, or iputils), which can forbid fragmentation (-M do)"
		return c
	}
	c.Fault = fmt.Sprintf("no answer from %s to a packet of full size, by %s: %s", c.Target, c.Way, firstFault(said))
	c.Cause = p.causeOf(ctx, s, c)
	return c
}

// probesOf are those of a peer, one for each family that it and this host have a subnet of: a
// rule, or a cloud, may keep one of them back alone. Behind a tunnel each host has the first address of
// its subnet on the device. Where packets go directly it must be an address of containers on
// both sides, since it is those that a cloud drops: the gateways', that of this host as far as
// it has one yet.
func probesOf(s hosts.Status, p hosts.Peer) []probe {
	var all []probe
	for _, o := range p.Subnets {
		first := o.Subnet.Addr()
		asked := slices.ContainsFunc(all, func(before probe) bool { return before.target.Is4() == first.Is4() })
		if asked || len(s.Subnets) > 0 && !hasFamily(s.Subnets, first.Is4()) {
			continue
		}
		switch p.Way {
		case hosts.Tunnel:
			all = append(all, probe{of: p, target: first})
		case hosts.Direct:
			all = append(all, probe{of: p, target: first.Next(), from: gatewayHere(s, first.Is4())})
		}
	}
	if len(all) == 0 {
		all = append(all, probe{of: p})
	}
	return all
}

func hasFamily(subnets []hosts.Subnet, is4 bool) bool {
	return slices.ContainsFunc(subnets, func(o hosts.Subnet) bool { return o.Subnet.Addr().Is4() == is4 })
}

// gatewayHere is the gateway's address of one of this host's subnets, if it has it yet.
func gatewayHere(s hosts.Status, is4 bool) (from netip.Addr) {
	for _, o := range s.Subnets {
		if gateway := o.Subnet.Addr().Next(); gateway.Is4() == is4 && isHere(gateway) {
			from = gateway
		}
	}
	return from
}

// isHere says whether this host has the address.
func isHere(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr() == a
	})
}

// ping sends one packet of size bytes, headers included, that may not be fragmented.
func ping(ctx context.Context, target netip.Addr, size int, from netip.Addr) (said string, err error) {
	headers := 28
	if target.Is6() {
		headers = 48
	}
	args := []string{"-n", "-c1", "-W2", "-M", "do", "-s", strconv.Itoa(size - headers)}
	if from.IsValid() {
		args = append(args, "-I", from.String())
	}
	output, err := exec.CommandContext(ctx, "ping", append(args, target.String())...).CombinedOutput()
	return string(output), err
}

// refusedBy says whether the peer itself has answered that the address is unreachable: then
// the packet has arrived. The peer has no bridge yet, since no container was started there.
func refusedBy(p hosts.Peer, said string) bool {
	for line := range strings.Lines(said) {
		for _, a := range p.Underlay {
			if strings.HasPrefix(line, "From "+a.Addr().String()+" ") && strings.Contains(strings.ToLower(line), "unreachable") {
				return true
			}
		}
	}
	return false
}

// small is the size of a packet that passes any link.
const small = 84

// causeOf finds out by two more packets what is likely in the way: a small one by the same
// way, and one to the peer's own address.
func (p probe) causeOf(ctx context.Context, s hosts.Status, c checkedPeer) string {
	underlay := p.of.Underlay
	var passes, answersItself bool
	var done sync.WaitGroup
	done.Go(func() {
		said, err := ping(ctx, p.target, small, p.from)
		passes = err == nil || refusedBy(p.of, said)
	})
	done.Go(func() {
		if len(underlay) > 0 {
			_, err := ping(ctx, underlay[0].Addr(), small, netip.Addr{})
			answersItself = err == nil
		}
	})
	done.Wait()
	if passes {
		return fmt.Sprintf(`a small packet is answered: a link on the way has a smaller MTU than the uplinks, from which %d follows; `+
			`set the uplinks' MTU right, or "mtu" of all containers (trestle cluster config set)`, c.Size)
	}
	if len(underlay) == 0 {
		return ""
	}
	address := underlay[0].Addr()
	if !answersItself {
		return fmt.Sprintf("its own address %s does not answer either: the host is down, or the hosts' link is (or ICMP is blocked)", address)
	}
	answers := fmt.Sprintf("its own address %s answers: ", address)
	switch {
	case c.Way == hosts.Direct:
		return answers + "packets with containers' addresses are dropped between the hosts, as clouds do (switch the source/destination check off), " +
			`or the way back is another (rp_filter); "backend": "vxlan" goes without (trestle cluster config set)`
	case s.Tunnel != nil && s.Tunnel.Kind == hosts.WireGuard:
		return answers + fmt.Sprintf("UDP port %d is blocked between the hosts, or one does not know the other's key; trestle doctor on both", s.Tunnel.Port)
	case s.Tunnel != nil:
		return answers + fmt.Sprintf("UDP port %d is blocked between the hosts (firewall, security group), or its trestle-node does not run, or does not know this host; trestle doctor on both", s.Tunnel.Port)
	}
	return ""
}

// firstFault is the line of ping's output that says what went wrong.
func firstFault(said string) string {
	for line := range strings.Lines(said) {
		if strings.Contains(line, "From ") || strings.Contains(line, "error") || strings.Contains(line, "unreachable") {
			return strings.TrimSpace(line)
		}
	}
	return "no answer"
}
