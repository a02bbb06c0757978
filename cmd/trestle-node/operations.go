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
func (a *agent) leave(ctx context.Context, st store, force bool) (said, error) {
	if err := a.mayLeave(force); err != nil {
		return said{}, err
	}
	// First it believes in nothing any more, then the kernel is cleaned up, then the store
	// hears of it: whoever is killed amidst that does the rest when it runs again.
	if err := a.member.BeginLeave(); err != nil {
		return said{}, err
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
		return said{Message: "left on this host; the store does not know yet (" + err.Error() + "), and hears of it when it answers: let trestle-node run until then"}, nil
	}
	return said{Message: "left"}, nil
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
	return fmt.Errorf("%s addresses of this host's subnets:\n%sstop them first; trestle node drain keeps new ones away; --force leaves all the same", howMany(running), listOf(running))
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
func (a *agent) drain(ctx context.Context, _ store, _ bool) (said, error) {
	a.member.State.Drained = true
	if err := a.member.Save(a.member.State); err != nil {
		return said{}, err
	}
	a.tell()
	a.kernel.flush(ctx) // what is under way might write the lists once more
	if err := withdrawConflists(func(string) bool { return true }); err != nil {
		return said{}, err
	}
	running, err := leases(a.member.State.Claims)
	if err != nil {
		return said{}, err
	}
	return said{fmt.Sprintf("drained: no new containers; %s addresses still", howMany(running)), running}, nil
}

func (a *agent) undrain(ctx context.Context, _ store, _ bool) (said, error) {
	a.member.State.Drained = false
	if err := a.member.Save(a.member.State); err != nil {
		return said{}, err
	}
	a.tell()
	a.kernel.flush(ctx)
	return said{Message: "the runtime may start containers again"}, nil
}

// accept is the administrator's word that what is gone is gone, and that lost subnets
// are lost.
func (a *agent) accept(ctx context.Context, st store, force bool) (said, error) {
	s := &a.member.State
	var notes []string
	if len(s.Lost) > 0 {
		running, err := leases(s.Lost)
		if err != nil {
			return said{}, err
		}
		if len(running) > 0 && !force {
			return said{}, fmt.Errorf("%s addresses that are another host's:\n%srestart them first; --force takes note of it all the same", howMany(running), listOf(running))
		}
		notes = append(notes, fmt.Sprintf("noted: %v are another's", prefixesOf(s.Lost...)))
		s.Lost = nil
	}
	if s.Suspect != "" || len(a.missing) > 0 {
		if st == nil {
			return said{}, errors.New("not connected to the store: what it lists is not known")
		}
		if err := a.list(ctx, st); err != nil {
			return said{}, err
		}
		before := len(s.Peers)
		s.Accept(a.listing)
		notes = append(notes, fmt.Sprintf("accepted; peers that are gone: %d, that are left: %d", before-len(s.Peers), len(s.Peers)))
		a.missing = nil
	}
	if err := a.member.Save(*s); err != nil {
		return said{}, err
	}
	a.tell()
	if len(notes) == 0 {
		notes = []string{"there was nothing to accept"}
	}
	return said{Message: strings.Join(notes, "\n")}, nil
}
