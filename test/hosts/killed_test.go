package hosts

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// step is something that an agent is about to do when it is killed.
type step struct {
	name string
	call string         // the system call
	path string         // of a file, or
	line *regexp.Regexp // what strace shows of the call
	nth  int            // which one it is, after whatever was done before; 0: the first
}

const nodeDir = "/var/lib/trestle/node/"

// sends is a message to the kernel, by its type; strace does not know that of a socket's
// first message, and shows a number.
func sends(what string) step {
	pattern := what
	if what == "RTM_NEWNEIGH" { // the first of a batch, and of its socket
		pattern += `|nlmsg_type=0x1c `
	}
	return step{name: what, call: "sendto", line: regexp.MustCompile(pattern)}
}

func file(name, call, path string) step { return step{name: name, call: call, path: path} }

// saves is the n-th time that the state is saved.
func saves(n int) step {
	return step{name: fmt.Sprint("state saved, ", n), call: "renameat", path: nodeDir + "state.json", nth: n}
}

// traced is an agent under strace, which holds it up at each call of the step's kind:
// long enough to be killed there, before the call is made.
type traced struct {
	*lab.Agent
	step step
	stop func() string
}

const tracePath = "/run/steps"

func trace(h *lab.Agent, s step) *traced {
	h.MustRun("rm", "-f", tracePath, "/run/trestle/node/status.json")
	args := []string{"strace", "-f", "-qq", "-s", "256", "-o", tracePath, "-e", "trace=" + s.call}
	hold := 50 * time.Millisecond // many are sent that are only questions
	if s.path != "" {
		hold = 300 * time.Millisecond
		args = append(args, "-P", s.path)
	}
	args = append(args, "-e", fmt.Sprintf("inject=%s:delay_enter=%d", s.call, hold.Microseconds()), h.Dirs().Trestle+"/trestle-node", "node", "run")
	return &traced{h, s, h.Host.Start(host.Command{Args: args})}
}

// at are the lines of the step's calls so far.
func (a *traced) at() (lines []string) {
	_ = a.Do(func() error { // no file: none
		data, err := os.ReadFile(tracePath)
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, a.step.call+"(") && (a.step.line == nil || a.step.line.MatchString(line)) {
				lines = append(lines, line)
			}
		}
		return err
	})
	return lines
}

// kill waits until the step is there, beyond those that were, and kills the agent.
func (a *traced) kill(n *network, before int) {
	n.Helper()
	var lines []string
	nth := before + max(a.step.nth, 1)
	deadline := time.Now().Add(lab.Patience)
	for len(lines) < nth {
		if lines = a.at(); time.Now().After(deadline) {
			look := n.Look(a.Host)
			trace := a.MustRun("sh", "-c", "tail -n50 "+tracePath+"; true")
			n.Fatalf("%s: not there after %v; there was\n%s\nits last calls:\n%s\nits log:\n%s\n%s", a.step.name, lab.Patience, strings.Join(lines, ""), trace, a.stop(), look)
		}
		time.Sleep(5 * time.Millisecond)
	}
	thread, _, _ := strings.Cut(lines[0], " ")
	// A machine that is busy comes too late: the step is done by then, or even the agent.
	if _, err := a.Run(host.Command{Args: []string{"kill", "-9", thread}}); err != nil {
		n.Fatalf("%v", err)
	}
	a.stop()
}

// keys counts the keys of a kind in etcd.
func (n *network) keys(t *testing.T, kind string) int {
	t.Helper()
	got, err := n.etcd.Out("get", "--prefix", "--keys-only", prefix+kind)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(got, kind)
}

// joined: a host that was killed joins, has one claim for each family, and is reached.
func (n *network) joined(t *testing.T, b *lab.Agent, after string) {
	t.Helper()
	b.Start()
	s := n.Ready(b.Host, 1)
	n.Ready(n.hosts[0].Host, 1)
	claims, err := n.etcd.Out("get", "--prefix", prefix+"claims/")
	if err != nil || strings.Count(claims, s.ID) != 2 || strings.Count(claims, `"node"`) != 4 {
		t.Errorf("%s: got claims %s, %v, want two of b and two of a", after, claims, err)
	}
	if nodes, names := n.keys(t, "nodes/"), n.keys(t, "names/"); nodes != 2 || names != 2 {
		t.Errorf("%s: got %d records and %d names, want two each", after, nodes, names)
	}
	if got := b.MustRun("sh", "-c", "ls -A "+nodeDir+" /etc/cni/net.d | grep '^\\.'; true"); got != "" {
		t.Errorf("%s: got files left over: %s", after, got)
	}
}

// left: a host that was killed amidst leaving has left, and nothing of it is left over.
func (n *network) left(t *testing.T, b *lab.Agent, after string) {
	t.Helper()
	b.MustRun("rm", "-f", "/run/trestle/node/status.json")
	b.Start()
	s := n.Await(b.Host, after+": left, or still there", func(s lab.Status) bool { return s.State == "left" || s.State == "ready" && s.Store.Connected })
	if s.State == "ready" { // killed before it had begun
		if out := b.Node("node", "leave"); out.Code != 0 {
			t.Errorf("%s: leave: %v", after, out)
		}
	}
	n.Ready(n.hosts[0].Host, 0)
	n.Eventually(after+": etcd has forgotten it", func() error {
		if claims, nodes := n.keys(t, "claims/"), n.keys(t, "nodes/"); claims != 2 || nodes != 1 {
			return fmt.Errorf("got %d claims and %d records, want those of a", claims, nodes)
		}
		return nil
	})
	nothingLeft(t, b)
	b.Kill()
	b.MustRun("sh", "-c", "rm -rf "+nodeDir+" /run/trestle")
}

// TestKilledJoining (row 24): an agent that is killed before any step of its joining goes
// on where it was: one claim for each family, nothing left over. Then it leaves, and
// joins anew, as a host that nobody knows.
func TestKilledJoining(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a")
	b := n.agentOf(t, "b")
	for _, s := range []step{
		file("id kept", "renameat", nodeDir+"id"), file("key kept", "renameat", nodeDir+"wg.key"),
		saves(1), saves(2), saves(3), saves(4),
		sends("RTM_NEWLINK"), sends("RTM_NEWADDR"), sends("RTM_NEWNEIGH"), sends("RTM_NEWROUTE"), sends("NFNL_MSG_BATCH_BEGIN"),
		file("list written", "renameat", "/etc/cni/net.d/10-pods.conflist"),
	} {
		trace(b, s).kill(n, 0)
		n.joined(t, b, "killed before "+s.name)
		if out := b.Node("node", "leave"); out.Code != 0 {
			t.Fatalf("leave: %v", out)
		}
		b.Kill() // it ends by itself, but not at once
		n.left(t, b, "joined after "+s.name)
	}
}

// agentOf is a host with settings, and an agent that does not run.
func (n *network) agentOf(t *testing.T, name string) *lab.Agent {
	t.Helper()
	a := n.Agent(n.Host(name), n.etcd.Settings(name))
	a.Kill()
	a.MustRun("rm", "-rf", nodeDir, "/run/trestle")
	return a
}

// TestKilledLeaving (row 24): the same of leaving.
func TestKilledLeaving(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a")
	b := n.agentOf(t, "b")
	for _, s := range []step{
		saves(1), file("list withdrawn", "unlinkat", "/etc/cni/net.d/10-pods.conflist"),
		sends("RTM_DELLINK"), sends("RTM_DELROUTE"), sends("NFT_MSG_DELTABLE"), saves(2), saves(3),
	} {
		agent := trace(b, s)
		n.Ready(b.Host, 1)
		before := len(agent.at())
		asked := make(chan host.Output, 1)
		go func() { asked <- b.Node("node", "leave") }()
		agent.kill(n, before)
		<-asked
		n.left(t, b, "killed before "+s.name)
	}
}

// TestKilledFollowing (row 24): the same of a host that comes back and finds another peer.
func TestKilledFollowing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	b := n.hosts[1]
	b.Kill()
	for i, s := range []step{sends("RTM_NEWNEIGH"), sends("RTM_NEWROUTE"), sends("NFNL_MSG_BATCH_BEGIN"), saves(1)} {
		put := n.etcd.Ctl("put", fmt.Sprint(prefix, "nodes/ghost", i), n.record(fmt.Sprint("ghost", i), i, ""))
		if put != nil {
			t.Fatal(put)
		}
		trace(b, s).kill(n, 0)
		b.Start()
		got := n.Ready(b.Host, 2+i)
		if repairs := got.Repairs; repairs != 0 || got.Peers[len(got.Peers)-1].Way != "tunnel" {
			t.Errorf("killed before %s: got %d repairs, peers %v; want none, and a way to each", s.name, repairs, got.Peers)
		}
		b.Kill()
	}
	b.Start()
	n.Ready(b.Host, 5)
	if claims := n.keys(t, "claims/"); claims != 4 {
		t.Errorf("got %d claims, want two of a and two of b", claims)
	}
	n.Reach(n.containers[1], n.containers[0])
}
