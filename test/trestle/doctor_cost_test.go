package trestle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestCost: with more containers a command runs no program more, and asks the kernel
// nothing more; of files it opens those that are an attachment's own.
func TestCost(t *testing.T) {
	t.Parallel()
	const few, more = 2, 8
	commands := []string{"doctor", "validate", "explain web --to 192.0.2.1:80", "explain web --from 192.0.2.1 --port 8080", "status", "metrics", "gc"}
	p := newPatient(t)
	p.sh("iptables -A FORWARD -i trestle0 -j ACCEPT; iptables -t nat -A PREROUTING -p tcp --dport 1 -j DNAT --to-destination 192.0.2.77:5")
	attached := 1
	costs := func(count int) map[string]map[string]int {
		for ; attached < count; attached++ {
			p.attach(fmt.Sprintf("c%d", attached), 8080+attached)
		}
		all := map[string]map[string]int{}
		for _, command := range commands {
			_, trace, err := p.Trace(host.Strace{Syscalls: "sendto,sendmsg,openat"}, host.Command{
				Args: append([]string{p.Dirs().Trestle + "/trestle"}, strings.Fields(command)...), Env: []string{"CNI_PATH=" + p.Dirs().Trestle},
			})
			if err != nil {
				t.Fatal(err)
			}
			all[command] = map[string]int{"execve": len(trace.Execs), "send": trace.Calls["sendto"] + trace.Calls["sendmsg"], "openat": trace.Calls["openat"]}
		}
		return all
	}
	before, after := costs(few), costs(few+more)
	if n := before["gc"]["execve"]; n != 1 {
		t.Errorf("gc: %d programs run, want trestle alone: each plugin would look at all attachments again", n)
	}
	for _, command := range commands {
		for _, call := range []struct {
			name string
			each int // for each attachment more
		}{{"execve", 0}, {"send", 1}, {"openat", 12}} {
			grown := after[command][call.name] - before[command][call.name]
			t.Logf("%s: %d of %s at %d attachments, %d more at %d", command, before[command][call.name], call.name, few, grown, few+more)
			if grown > call.each*more {
				t.Errorf("%s: %d more of %s for %d attachments more, want at most %d each", command, grown, call.name, more, call.each)
			}
		}
	}
}
