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
)

// probesAtOnce bounds the programs that run at one time: each waits for its answer.
const probesAtOnce = 16

// checkPeers sends a packet of full size to each peer.
func checkPeers(ctx context.Context, s Status) []checkedPeer {
	all := make([]checkedPeer, len(s.Peers))
	turns := make(chan struct{}, probesAtOnce)
	var done sync.WaitGroup
	for i, p := range s.Peers {
		done.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			all[i] = checkPeer(ctx, s, p)
		})
	}
	done.Wait()
	return all
}

func checkPeer(ctx context.Context, s Status, p PeerInfo) checkedPeer {
	target, from := probe(s, p)
	c := checkedPeer{Name: p.Name, Way: s.Shown(p), Target: target, Size: s.MTU}
	if !target.IsValid() {
		c.Fault = fmt.Sprintf("no way to it (%s)", p.Way)
		c.Cause = "trestle node status says why"
		return c
	}
	said, err := ping(ctx, target, s.MTU, from)
	if err == nil || refusedBy(p, said) {
		return c
	}
	if errors.Is(err, exec.ErrNotFound) || strings.Contains(said, "invalid option") || strings.Contains(said, "unrecognized option") {
		c.Fault = "not looked at: that needs the ping of iputils (the package iputils-ping, or iputils), which can forbid that a packet is cut up (-M do)"
		return c
	}
	c.Fault = fmt.Sprintf("no answer from %s to a packet of full size, by %s: %s", c.Target, c.Way, firstFault(said))
	c.Cause = causeOf(ctx, s, p, c)
	return c
}

// probe is the address that is asked for a peer, and the one to ask from, where that matters.
// Behind a tunnel each host has the first address of its subnet on the device. Where packets
// go directly it must be an address of containers on both sides, since it is those that a
// cloud drops: the gateways', that of this host as far as it has one yet.
func probe(s Status, p PeerInfo) (target, from netip.Addr) {
	if len(p.Subnets) == 0 {
		return target, from
	}
	first := p.Subnets[0].Subnet.Addr()
	switch p.Way {
	case hosts.Tunnel:
		return first, from
	case hosts.Direct:
		for _, o := range s.Subnets {
			if gateway := o.Subnet.Addr().Next(); gateway.Is4() == first.Is4() && isHere(gateway) {
				from = gateway
			}
		}
		return first.Next(), from
	}
	return target, from
}

// isHere says whether this host has the address.
func isHere(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr() == a
	})
}

// ping sends one packet of so many bytes, headers included, that may not be fragmented.
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

// refusedBy says whether the peer itself has answered that there is no such address: it has
// the packet, and only no bridge yet, since no container was started there.
func refusedBy(p PeerInfo, said string) bool {
	for line := range strings.Lines(said) {
		for _, a := range p.Underlay {
			if strings.HasPrefix(line, "From "+a.Addr().String()+" ") && strings.Contains(strings.ToLower(line), "unreachable") {
				return true
			}
		}
	}
	return false
}

// small is the size of a packet that passes everywhere.
const small = 84

// causeOf finds out by two more packets what is likely in the way: a small one by the same
// way, and one to the peer's own address.
func causeOf(ctx context.Context, s Status, p PeerInfo, c checkedPeer) string {
	_, from := probe(s, p)
	var passes, answersItself bool
	var done sync.WaitGroup
	done.Go(func() {
		said, err := ping(ctx, c.Target, small, from)
		passes = err == nil || refusedBy(p, said)
	})
	done.Go(func() {
		if len(p.Underlay) > 0 {
			_, err := ping(ctx, p.Underlay[0].Addr(), small, netip.Addr{})
			answersItself = err == nil
		}
	})
	done.Wait()
	if passes {
		return fmt.Sprintf(`a small packet is answered: something on the way takes less than the uplinks say, of which %d is made; `+
			`set the uplinks' MTU right, or "mtu" of all containers (trestle cluster config set)`, c.Size)
	}
	if len(p.Underlay) == 0 {
		return ""
	}
	address := p.Underlay[0].Addr()
	if !answersItself {
		return fmt.Sprintf("its own address %s does not answer either: the host is down, or the hosts' link is (or ICMP is blocked)", address)
	}
	answers := fmt.Sprintf("its own address %s answers: ", address)
	switch {
	case c.Way == hosts.Direct:
		return answers + "packets with containers' addresses are dropped between the hosts, as clouds do (switch the source/destination check off), " +
			`or the way back is another (rp_filter); "backend": "vxlan" goes without (trestle cluster config set)`
	case s.Tunnel != nil && s.Tunnel.Kind == hosts.WireGuard:
		return answers + fmt.Sprintf("UDP port %d is blocked between the hosts, or each has another key of the other than it has; trestle doctor on both", s.Tunnel.Port)
	case s.Tunnel != nil:
		return answers + fmt.Sprintf("UDP port %d is blocked between the hosts (firewall, security group), or its trestle-node does not run or know this host; trestle doctor on both", s.Tunnel.Port)
	}
	return ""
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
