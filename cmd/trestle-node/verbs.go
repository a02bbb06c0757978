package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// What the running agent does when it is asked. Each is called by its own goroutine;
// the store is nil where there is no connection.

// leave gives this host's subnets back. A host with containers stays, unless it is forced.
func (a *agent) leave(ctx context.Context, st store, force bool) (string, error) {
	if err := a.mayLeave(force); err != nil {
		return "", err
	}
	// First it believes in nothing any more, then the kernel is cleaned up, then the store
	// hears of it: whoever is killed amidst that does the rest when it runs again.
	if err := a.member.BeginLeave(); err != nil {
		return "", err
	}
	a.tell()
	a.kernel.flush(ctx)
	var from cluster.Store = unreachable{}
	if st != nil {
		from = st
	}
	err := a.member.Leave(ctx, from)
	a.left = err == nil
	if err != nil {
		return "left on this host; the store does not know yet (" + err.Error() + "), and hears of it when it answers: let trestle-node run until then\n", nil
	}
	return "left\n", nil
}

// mayLeave refuses to take the network away from under containers.
func (a *agent) mayLeave(force bool) error {
	s := a.member.State
	if s.Leaving || force {
		return nil
	}
	running, err := leases(s.Claims)
	if err != nil {
		return err
	}
	if len(running) == 0 {
		return nil
	}
	return fmt.Errorf("containers have addresses of this host's subnets (%d):\n%sstop them first; trestle node drain keeps new ones away; --force leaves all the same", len(running), listOf(running))
}

func listOf(all []container) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "\t%s\t%s\t%s\n", c.Network, c.Address, c.ID)
	}
	return b.String()
}

// unreachable is the store of a host that has none at the moment.
type unreachable struct{ cluster.Store }

func (unreachable) Get(context.Context, ...string) (cluster.View, error) {
	return cluster.View{}, errors.New("it is not connected")
}

// drain keeps new containers away: the runtime has no network to start them in.
func (a *agent) drain(context.Context, store, bool) (string, error) {
	a.member.State.Drained = true
	if err := a.member.Save(a.member.State); err != nil {
		return "", err
	}
	a.tell()
	if err := withdrawConflists(func(string) bool { return true }); err != nil {
		return "", err
	}
	running, err := leases(a.member.State.Claims)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("drained: no new containers; %d are still there\n%s", len(running), listOf(running)), nil
}

func (a *agent) undrain(ctx context.Context, _ store, _ bool) (string, error) {
	a.member.State.Drained = false
	if err := a.member.Save(a.member.State); err != nil {
		return "", err
	}
	a.tell()
	a.kernel.flush(ctx)
	return "the runtime may start containers again\n", nil
}

// accept is the administrator's word that what is gone is gone, and that lost subnets
// are lost.
func (a *agent) accept(ctx context.Context, st store, force bool) (string, error) {
	s := &a.member.State
	var said []string
	if len(s.Lost) > 0 {
		running, err := leases(s.Lost)
		if err != nil {
			return "", err
		}
		if len(running) > 0 && !force {
			return "", fmt.Errorf("containers have addresses that are another host's (%d):\n%srestart them first; --force takes note of it all the same", len(running), listOf(running))
		}
		said = append(said, fmt.Sprintf("noted: %v are another's", prefixesOf(s.Lost...)))
		s.Lost = nil
	}
	if s.Suspect != "" || len(a.missing) > 0 {
		if st == nil {
			return "", errors.New("not connected to the store: what it lists is not known")
		}
		if err := a.list(ctx, st); err != nil {
			return "", err
		}
		before := len(s.Peers)
		s.Accept(a.listing)
		said = append(said, fmt.Sprintf("accepted; peers that are gone: %d, that are left: %d", before-len(s.Peers), len(s.Peers)))
		a.missing = nil
	}
	if err := a.member.Save(*s); err != nil {
		return "", err
	}
	a.tell()
	if len(said) == 0 {
		return "there was nothing to accept\n", nil
	}
	return strings.Join(said, "\n") + "\n", nil
}
