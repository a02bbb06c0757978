package portmap

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestLostAnswers loses each answer of the kernel in turn: a command that says that it
// succeeded has done all, one that failed leaves what the next DEL takes away, and an
// overrun of the socket's buffer, which only loses the answer, fails no change of
// nftables.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		backend  string
		errnos   []string
		commands []string
	}{
		{"nftables", []string{"ENOBUFS", "EIO"}, []string{"ADD", "DEL", "GC", "restore"}},
		{"iptables", []string{"EIO"}, []string{"ADD", "DEL"}}, // whose programs have sockets of their own, and fail
	} {
		for _, errno := range c.errnos {
			for _, command := range c.commands {
				t.Run(c.backend+"/"+errno+"/"+command, func(t *testing.T) {
					t.Parallel()
					newLostAnswers(t, c.backend, errno).run(command)
				})
			}
		}
	}
}

type lostAnswers struct {
	*host.Host
	t          *testing.T
	c          *host.Container
	config, gc string
	errno      string
}

func newLostAnswers(t *testing.T, backend, errno string) lostAnswers {
	h := host.NewRouting(t)
	config := object{
		"macspoofchk": true, "ipMasqBackend": backend,
		"runtimeConfig": object{"portMappings": []any{
			object{"hostPort": 8080, "containerPort": 80},
			object{"hostPort": 8081, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"},
		}},
	}
	gc := object{"cni.dev/valid-attachments": []any{}}
	for key, value := range config {
		gc[key] = value
	}
	return lostAnswers{h, t, h.Container("c1"), host.BridgeConfig(config), host.BridgeConfig(gc), errno}
}

func (l lostAnswers) run(command string) {
	l.t.Helper()
	for when := 1; ; when++ {
		if command != "ADD" {
			l.c.MustAdd(l.config)
		}
		if command == "restore" {
			l.MustRun("nft", "flush", "ruleset")
		}
		injected, err := l.lose(command, when)
		what := fmt.Sprintf("%s whose answer %d was lost (%s)", command, when, l.errno)
		if err != nil && l.errno == "ENOBUFS" && strings.Contains(err.Error(), "nftables") {
			l.t.Errorf("%s: %v", what, err)
		}
		if err == nil && (command == "ADD" || command == "restore") {
			l.check(what)
		}
		if err == nil && (command == "DEL" || command == "GC") || err != nil && command == "ADD" && !host.SaysWhatIsLeft(injected, err) {
			l.leftNothing(what)
		}
		l.c.MustDel(l.config)
		l.leftNothing("DEL after " + what)
		if injected == 0 {
			l.t.Logf("%d answers", when-1)
			return
		}
		if l.t.Failed() && when > 200 {
			return
		}
	}
}

func (l lostAnswers) lose(command string, when int) (injected int, err error) {
	watch := host.Strace{Syscalls: "recvfrom", Inject: []string{fmt.Sprintf("recvfrom:error=%s:when=%d", l.errno, when)}}
	if command == "restore" {
		output, trace, err := l.Trace(watch, host.Command{Args: []string{filepath.Join(l.Dirs().Trestle, "trestle"), "restore"}})
		if err == nil && output.Code != 0 {
			err = fmt.Errorf("exit status %d: %s", output.Code, output.Stderr)
		}
		return trace.Injected, err
	}
	call := l.c.Call(command, "bridge", l.config)
	if command == "GC" {
		call = host.Call{Plugin: "bridge", Command: "GC", Config: l.gc}
	}
	call.Strace = &watch
	answer := l.Exec(call)
	if strings.Contains(answer.Stderr, "left for GC") { // by iptables, which failed
		mustGC(l.t, l.Host, l.gc)
	}
	return answer.Trace.Injected, answer.Err()
}

func mustGC(t *testing.T, h *host.Host, config string) {
	t.Helper()
	if err := h.Exec(host.Call{Plugin: "bridge", Command: "GC", Config: config}).Err(); err != nil {
		t.Errorf("GC: %v", err)
	}
}

// check says whether the attachment has all: CHECK needs the result, which another ADD
// of the same tells.
func (l lostAnswers) check(what string) {
	l.t.Helper()
	if got := strings.Count(l.ours(), "n/c1/eth0"); got < 4 {
		l.t.Errorf("%s: got %d rules and elements:\n%s", what, got, l.ours())
	}
}

func (l lostAnswers) ours() string {
	return l.MustRun("sh", "-c", host.ListRuleset+` | grep -F n/c1/eth0; iptables-save -t nat | grep -F n/c1/eth0;
		find /run/trestle/translations /run/trestle/hostports /run/trestle/macspoofchk ! -type d 2>&-; ls /var/lib/cni/networks/n 2>&- | grep -F 10.9; true`)
}

func (l lostAnswers) leftNothing(what string) {
	l.t.Helper()
	if got := l.ours(); got != "" {
		l.t.Errorf("%s left\n%s", what, got)
	}
}
