package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// This file has the operations that the running agent is asked for. They run on the agent's
// goroutine; the store is nil if there is no connection.

// leave releases this host's subnets, and removes what is ours from it. It is refused if the
// host has containers, unless it is forced.
func (a *agent) leave(ctx context.Context, st store, force bool) (said, error) {
	if err := a.mayLeave(force); err != nil {
		return said{}, err
	}
	// First the host gives up its subnets on disk, then the kernel is cleaned up, then the
	// store is told: an agent that is killed in between does the rest when it runs again. The
	// last two are both tried, whatever the result of the other.
	if err := a.member.BeginLeave(); err != nil {
		return said{}, err
	}
	a.tell()
	here := a.kernel.flush(ctx)
	var from cluster.Store = unreachable{}
	if st != nil {
		from = st
	}
	there := a.member.Leave(ctx, from)
	a.show()
	switch {
	case here.err != nil && there != nil:
		return said{}, fmt.Errorf("%w; and the store does not know yet (%w)", a.leftBehind(here.err), there)
	case here.err != nil:
		return said{}, a.leftBehind(here.err)
	case there != nil:
		return said{Message: "left on this host; the store does not know yet (" + there.Error() + "), and is told when it answers: let trestle-node run until then"}, nil
	}
	return said{Message: "left" + inUse(here)}, a.endLeave()
}

// goOnLeaving removes what is left of the network on this host, again and again until that
// succeeds. The store already knows that the host has left.
func (a *agent) goOnLeaving(ctx context.Context) error {
	for ctx.Err() == nil {
		here := a.kernel.flush(ctx)
		if here.err == nil {
			here.err = a.endLeave()
		}
		if a.left {
			return errLeft
		}
		a.log.Error("leave", "error", a.leftBehind(here.err))
		a.show()
		a.idle(ctx, a.settings.Audit.Duration)
		if a.left {
			return errLeft
		}
	}
	return ctx.Err()
}

// endLeave clears the state, which ends the agent.
func (a *agent) endLeave() error {
	if err := a.member.EndLeave(); err != nil {
		return err
	}
	a.left = true
	a.show()
	return nil
}

// leftBehind is the error if something is left on a host that is leaving.
func (a *agent) leftBehind(err error) error {
	return fmt.Errorf("this host is out of the network, and something of it is left here: %w; put that right, and run trestle node leave again "+
		"(trestle-node tries again by itself every %v)", err, a.settings.Audit.Duration)
}

// leaveState is the state of a host that is leaving or has left.
func (a *agent) leaveState() (state, why string) {
	switch {
	case a.left:
		return hosts.Left, ""
	case a.member.State.Told:
		return hosts.Leaving, "the store knows; trestle node leave says what is left on this host"
	}
	return hosts.Leaving, "the store does not know yet, and is told when it answers"
}

// inUse names the bridges that stay, for a message.
func inUse(b applied) string {
	if len(b.inUse) == 0 {
		return ""
	}
	return "; containers are on " + strings.Join(b.inUse, ", ") + ", which stays: ip link del it when they are gone"
}

// mayLeave is an error if containers use this host's subnets, unless it is forced.
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

// unreachable is the store of a host that has no connection to it.
type unreachable struct{ cluster.Store }

func (unreachable) Get(context.Context, ...string) (cluster.View, error) {
	return cluster.View{}, errors.New("it is not connected")
}

// change changes the state on disk and in memory, or in neither: a restart would lose what
// cannot be saved.
func (a *agent) change(change func(*cluster.State)) error {
	before := a.member.State
	change(&a.member.State)
	if err := a.member.Save(a.member.State); err != nil {
		a.member.State = before
		return err
	}
	return nil
}

// drain keeps new containers from being started, by removing the runtime's network lists.
func (a *agent) drain(ctx context.Context, _ store, _ bool) (said, error) {
	if err := a.change(func(s *cluster.State) { s.Drained = true }); err != nil {
		return said{}, err
	}
	a.tell()
	a.kernel.flush(ctx) // a run that has begun could write the lists once more
	if err := withdrawConflists(allNetworks); err != nil {
		return said{}, err
	}
	running, err := leases(a.member.State.Claims)
	if err != nil {
		return said{}, err
	}
	return said{fmt.Sprintf("drained: no new containers; %s addresses still", howMany(running)), running}, nil
}

func (a *agent) undrain(ctx context.Context, _ store, _ bool) (said, error) {
	if err := a.change(func(s *cluster.State) { s.Drained = false }); err != nil {
		return said{}, err
	}
	a.tell()
	a.kernel.flush(ctx)
	return said{Message: "the runtime may start containers again"}, nil
}

// accept takes the administrator's word that peers which are not listed are gone, and that
// lost subnets are lost.
func (a *agent) accept(ctx context.Context, st store, force bool) (said, error) {
	lost, notes := a.member.State.Lost, []string(nil)
	if len(lost) > 0 {
		running, err := leases(lost)
		if err != nil {
			return said{}, err
		}
		if len(running) > 0 && !force {
			return said{}, fmt.Errorf("%s addresses that are another host's:\n%srestart them first; --force takes note of it all the same", howMany(running), listOf(running))
		}
		notes = append(notes, fmt.Sprintf("noted: %v are another's", prefixesOf(lost...)))
	}
	gone := a.member.State.Suspect != "" || len(a.missing) > 0
	if gone && st == nil {
		return said{}, errors.New("not connected to the store: what it lists is not known")
	}
	if gone {
		if err := a.list(ctx, st); err != nil {
			return said{}, err
		}
	}
	before := len(a.member.State.Peers)
	err := a.change(func(s *cluster.State) {
		if s.Lost = nil; gone {
			s.Accept(a.listing)
		}
	})
	if err != nil {
		return said{}, err
	}
	if gone {
		left := len(a.member.State.Peers)
		notes = append(notes, fmt.Sprintf("accepted; peers that are gone: %d, that are left: %d", before-left, left))
		a.missing = nil
	}
	a.tell()
	if len(notes) == 0 {
		notes = []string{"there was nothing to accept"}
	}
	return said{Message: strings.Join(notes, "\n")}, nil
}
