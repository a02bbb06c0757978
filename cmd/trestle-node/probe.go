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

// probesAtOnce bounds how many pings run at the same time: each waits for its answer.
const probesAtOnce = 16

// checkPeers sends a packet of full size to each peer.
func checkPeers(ctx context.Context, s hosts.Status) []checkedPeer {
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

func checkPeer(ctx context.Context, s hosts.Status, p hosts.Peer) checkedPeer {
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
		c.Fault = "not checked: that needs the ping of iputils (the package iputils-ping, or iputils), which can forbid fragmentation (-M do)"
		return c
	}
	c.Fault = fmt.Sprintf("no answer from %s to a packet of full size, by %s: %s", c.Target, c.Way, firstFault(said))
	c.Cause = causeOf(ctx, s, p, c)
	return c
}

// probe is the address to ping for a peer, and the source address, where that matters. Each
// host has the first address of its subnet on the tunnel's device. Where packets go directly
// both must be addresses of the networks, since a cloud drops packets with those: the
// gateways', as far as this host has one yet.
func probe(s hosts.Status, p hosts.Peer) (target, from netip.Addr) {
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

// causeOf finds the likely cause with two more packets: a small one by the same way, and one
// to the peer's own address.
func causeOf(ctx context.Context, s hosts.Status, p hosts.Peer, c checkedPeer) string {
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
		return fmt.Sprintf(`a small packet is answered: a link on the way has a smaller MTU than the uplinks, from which %d follows; `+
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
