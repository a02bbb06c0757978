package main

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// show writes the status at once.
func (a *agent) show() {
	a.note()
	a.board.write(true)
}

// note copies the state to the status.
func (a *agent) note() {
	s := a.member.State
	if s.Leaving || a.left {
		state, why := a.leaveState()
		a.board.note(func(b *hosts.Status) { b.State, b.Why, b.Subnets, b.Peers = state, why, nil, nil })
		return
	}
	restart, err := leases(s.Lost)
	if err != nil {
		a.log.Error("list containers with addresses of lost subnets", "error", err)
	}
	a.board.note(func(b *hosts.Status) {
		b.ID, b.Name, b.Subnets, b.Lost, b.Restart = s.ID, s.Name, subnetsOf(s.Claims), subnetsOf(s.Lost), restart
		b.Pools = s.Config.Pools()
		b.State, b.Why = a.standing(restart)
	})
}

// standing is this host's state for people: the worst that applies, and why.
func (a *agent) standing(restart []container) (state, why string) {
	s := a.member.State
	switch {
	case len(s.Lost) > 0 && len(restart) > 0:
		return hosts.Fenced, howMany(restart) + " addresses of subnets that are another host's; restart them"
	case len(s.Lost) > 0:
		return hosts.Fenced, "subnets of this host were given to another; trestle node accept takes note of it"
	case s.Suspect != "":
		return hosts.Suspect, s.Suspect
	case a.member.Outdated() != nil:
		return hosts.Outdated, a.member.Outdated().Error() + "; routes and containers go on, and nothing new is claimed or published"
	case s.Drained:
		return hosts.Drained, "the runtime starts no containers; trestle node undrain ends it"
	case !a.ready:
		return hosts.Starting, ""
	}
	return hosts.Ready, ""
}

// becomeReady waits until the runtime's network lists are written, and then tells systemd.
func (a *agent) becomeReady(ctx context.Context) {
	if a.ready {
		return
	}
	a.ready = true
	a.want()
	a.kernel.flush(ctx)
	a.show()
	a.notify()
}

// notify tells systemd, once, that units ordered after this one may start.
func (a *agent) notify() {
	a.notified.Do(func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			a.log.Warn("tell systemd", "error", err)
		}
	})
}

func (a *agent) connected(ctx context.Context, st store) {
	if !a.board.now().Store.Connected {
		a.log.Info("connected", "store", st.Describe(), "peers", len(a.member.State.Peers))
	}
	a.noteConnected(st)
	a.becomeReady(ctx)
}

func (a *agent) noteConnected(st store) {
	a.board.problem("store")
	a.board.update(func(s *hosts.Status) {
		if !s.Store.Connected {
			s.Store = hosts.Store{Name: st.Describe(), Connected: true, Since: time.Now().UTC()}
		}
	})
}

// disconnected reports that there is no connection to the store. The network stays as it is.
func (a *agent) disconnected(err error) {
	text := "unknown"
	if err != nil {
		text = cni.Plain(err).Error()
	}
	before := a.board.now().Store
	if before.Connected || before.Error != text {
		a.log.Warn("not connected to the store; everything stays as it is", "error", text)
	}
	a.board.problem("store", "not connected to the store: "+text)
	a.board.update(func(s *hosts.Status) {
		if s.Store.Connected || s.Store.Since.IsZero() {
			s.Store.Since = time.Now().UTC()
		}
		s.Store.Connected, s.Store.Error = false, text
	})
}
