package portmap

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestFlushedAtEachStep flushes all rules before each message to the kernel in turn: no
// command fails by that, DEL and GC leave nothing, and of what ADD made restore brings
// back what was lost.
func TestFlushedAtEachStep(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		for _, command := range []string{"ADD", "DEL", "GC", "restore"} {
			t.Run(backend+"/"+command, func(t *testing.T) {
				t.Parallel()
				l := newLostAnswers(t, backend, "")
				step := 1
				if backend == "iptables" || command == "GC" {
					step = 2 // they have fifty, of which many are of a kind
				}
				for when := 1; l.flushAt(command, when) && !t.Failed(); when += step {
				}
			})
		}
	}
}

// flushAt runs the command once, and says whether it has so many steps.
func (l lostAnswers) flushAt(command string, when int) bool {
	l.t.Helper()
	what := fmt.Sprintf("%s, flushed before message %d", command, when)
	if command != "ADD" {
		l.c.MustAdd(l.config)
	}
	watch := &host.Strace{
		Syscalls: "sendto,sendmsg", Inject: []string{fmt.Sprintf("sendto,sendmsg:signal=STOP:when=%d", when)},
		Stopped: func() { l.MustRun("nft", "flush", "ruleset") },
	}
	trace, err := l.watched(command, watch)
	if err != nil {
		l.t.Errorf("%s: %v", what, err)
	}
	switch command {
	case "ADD", "restore":
		l.Restore()
		l.check(what)
	default:
		l.leftNothing(what)
	}
	l.c.MustDel(l.config)
	l.leftNothing("DEL after " + what)
	return trace.Injected > 0
}

func (l lostAnswers) watched(command string, watch *host.Strace) (host.Trace, error) {
	if command == "restore" {
		output, trace, err := l.Trace(*watch, host.Command{Args: []string{filepath.Join(l.Dirs().Trestle, "trestle"), "restore"}})
		if err == nil && output.Code != 0 {
			err = fmt.Errorf("exit status %d: %s", output.Code, output.Stderr)
		}
		return trace, err
	}
	call := l.c.Call(command, "bridge", l.config)
	if command == "GC" {
		call = host.Call{Plugin: "bridge", Command: "GC", Config: l.gc}
	}
	call.Strace = watch
	answer := l.Exec(call)
	return answer.Trace, answer.Err()
}
