package hostlocal

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// DEL frees the lease whatever has become of the network's address management.
func TestBridgeDelWithOtherIPAM(t *testing.T) {
	away := host.Leases("10.9.0.0/24")
	away["dataDir"] = "/run/leases"
	moved := host.Leases("10.9.0.0/24")
	moved["dataDir"] = "/run/moved"
	missing := object{"type": "host-local-of-somebody"}
	edits := map[string]object{
		"another dataDir":            {"ipam": moved},
		"the default dataDir":        {"ipam": host.Leases("10.9.0.0/24")},
		"a dataDir of no sense":      {"ipam": object{"type": "host-local", "dataDir": 5}},
		"static":                     {"ipam": object{"type": "static", "addresses": []any{object{"address": "10.1.1.1/24"}}}},
		"no ipam":                    {"ipam": nil},
		"text for an object":         {"ipam": "host-local"},
		"a list for an object":       {"ipam": []any{}},
		"a plugin that is not there": {"ipam": missing},
	}
	for from, ipam := range map[string]object{"default dataDir": host.Leases("10.9.0.0/24"), "dataDir of its own": away} {
		for to, edit := range edits {
			t.Run(from+", then "+to, func(t *testing.T) {
				t.Parallel()
				h := host.NewRouting(t)
				c, other := h.Container("c1"), h.Container("c2")
				config := host.BridgeConfig(object{"ipam": ipam})
				other.MustAdd(config)
				want := leasedAddresses(t, h)
				c.MustAdd(config)
				answer := h.Exec(c.Call("DEL", "bridge", host.BridgeConfig(edit)))
				if err := answer.Err(); err != nil && !strings.Contains(err.Error(), "host-local-of-somebody") {
					t.Error(err)
				}
				if got := leasedAddresses(t, h); got != want {
					t.Errorf("leases after DEL: got %s, want %s", got, want)
				}
			})
		}
	}
}

// leasedAddresses is what network n has leased, in the data directories of these tests.
func leasedAddresses(t *testing.T, h *host.Host) (leased string) {
	t.Helper()
	err := h.Do(func() error {
		for _, dir := range []string{"/var/lib/cni/networks", "/run/leases", "/run/moved"} {
			files, err := filepath.Glob(dir + "/n/[0-9a-f]*")
			if err != nil {
				return err
			}
			leased += fmt.Sprint(files)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return leased
}

// GC has no list that counts for a directory that the configuration does not name: it
// takes from the dead, and from nobody else.
func TestBridgeGCWithOtherIPAM(t *testing.T) {
	t.Parallel()
	host.NeedProofOfDeath(t) // in a directory that is not the configuration's any more GC goes by that alone
	h := host.NewRouting(t)
	living, dead := h.Container("living"), h.Container("dead")
	away := host.Leases("10.9.0.0/24")
	away["dataDir"] = "/run/leases"
	living.MustAdd(host.BridgeConfig(object{"ipam": away}))
	want := leasedAddresses(t, h)
	dead.MustAdd(host.BridgeConfig(object{"ipam": away}))
	dead.Remove()
	host.Await(t, "GC leaves the lease of the living one alone", func() bool { // the kernel takes its time to end a namespace
		for _, ipam := range []any{nil, host.Leases("10.9.0.0/24")} {
			config := host.BridgeConfig(object{"ipam": ipam, "cni.dev/valid-attachments": []any{object{"containerID": "living", "ifname": "eth0"}}})
			if err := h.Exec(host.Call{Command: "GC", Plugin: "bridge", Config: config}).Err(); err != nil {
				t.Error(err)
			}
		}
		return leasedAddresses(t, h) == want
	})
}

// Of two ADDs for one attachment at once, one fails; the other keeps its lease.
func TestBridgeAddTwiceAtOnce(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24"), "ipMasq": false})
	for i := range 20 {
		c := h.Container(fmt.Sprint("c", i))
		var answers [2]host.Answer
		var both sync.WaitGroup
		for k := range answers {
			both.Go(func() { answers[k] = h.Exec(c.Call("ADD", "bridge", config)) })
		}
		both.Wait()
		succeeded := 0
		for _, answer := range answers {
			if answer.Err() == nil {
				succeeded++
			}
		}
		if succeeded == 0 {
			t.Errorf("%s: %v; %v", c.ID, answers[0].Err(), answers[1].Err())
		}
		if n := strings.Count(leasedAddresses(t, h), "/n/10."); n != i+1 {
			t.Fatalf("%s: %d of two ADDs succeeded, and there are %d leases, want %d", c.ID, succeeded, n, i+1)
		}
	}
}

// ptpOn runs the reference's ptp, which asks for addresses before it looks for the
// interface, and takes a failure back by DEL, with the host-local of that directory.
func ptpOn(h *host.Host, c *host.Container, verb, hostLocal string) host.Answer {
	config := host.BridgeConfig(object{"type": "ptp", "isDefaultGateway": nil, "ipMasq": nil, "ipam": host.Leases("10.9.0.0/24")})
	call := c.Call(verb, h.Reference("ptp"), config)
	call.Path = hostLocal
	return h.Exec(call)
}

// A second ADD does not take the lease from under the attachment that stands. Where the
// interface or its namespace is lost, the address is given again.
func TestHostLocalSparesWhatIsAttached(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	ptp := func(verb string) host.Answer { return ptpOn(h, c, verb, h.Dirs().Trestle) }
	mustHave := func(when string) {
		t.Helper()
		if got := leasedAddresses(t, h); strings.Count(got, "/n/10.") != 1 || !strings.Contains(got, "/n/10.9.0.2") {
			t.Fatalf("%s: leases %q, want that of 10.9.0.2", when, got)
		}
	}
	mustGive := func(when string) {
		t.Helper()
		result, err := ptp("ADD").Result()
		if err != nil || result.IPs[0].Address.IP.String() != "10.9.0.2" {
			t.Fatalf("ADD %s: got %v, %v, want 10.9.0.2", when, result, err)
		}
		mustHave(when)
	}
	mustGive("of nobody yet")
	for range 2 {
		if err := ptp("ADD").Err(); host.CodeOf(err) != 102 || !strings.Contains(err.Error(), "n/c1/eth0 has leases already, and its interface eth0 exists") {
			t.Errorf("ADD again: got %v, want code 102", err)
		}
		mustHave("after ADD again")
	}
	c.MustRun("ip", "link", "del", "eth0")
	mustGive("after the interface was lost")
	host.NeedProofOfDeath(t) // without one, a later namespace at the same path may count as the former
	c.Remove()
	c = h.Container("c1")
	c.MustRun("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other") // of a plugin that makes the link first
	call := c.Call("ADD", "host-local", host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24")}))
	var answer host.Answer
	host.Await(t, "the kernel has ended the namespace", func() bool {
		answer = h.Exec(call)
		return host.CodeOf(answer.Err()) != 102
	})
	if result, err := answer.Result(); err != nil || result.IPs[0].Address.IP.String() != "10.9.0.2" {
		t.Errorf("ADD after the namespace was lost: got %v, %v, want 10.9.0.2", result, err)
	}
	if err := ptp("DEL").Err(); err != nil {
		t.Error(err)
	}
	h.AssertNoLease()
}

// Of two ADDs at once that others execute, the slower one is given nothing that it would
// take from the faster one.
func TestHostLocalExecutedTwiceAtOnce(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	for i := range 6 {
		c := h.Container(fmt.Sprint("c", i))
		var errs [2]error
		var both sync.WaitGroup
		for k := range errs {
			both.Go(func() { errs[k] = ptpOn(h, c, "ADD", h.Dirs().Trestle).Err() })
		}
		both.Wait()
		if n := strings.Count(leasedAddresses(t, h), "/n/10."); (errs[0] == nil) == (errs[1] == nil) || n != i+1 {
			t.Fatalf("%s: got %v, and there are %d leases, want one to succeed, and %d", c.ID, errs, n, i+1)
		}
	}
}

// A lease that the reference wrote says nothing of a namespace; it is not taken from under
// the attachment either.
func TestHostLocalSparesTheReferencesLease(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	if err := ptpOn(h, c, "ADD", h.Dirs().Reference).Err(); err != nil {
		t.Fatal(err)
	}
	want := leasedAddresses(t, h)
	if !strings.Contains(want, "/n/10.9.0.2") {
		t.Fatalf("leases of the reference: %q, want that of 10.9.0.2", want)
	}
	for range 2 {
		if err := ptpOn(h, c, "ADD", h.Dirs().Trestle).Err(); host.CodeOf(err) != 102 {
			t.Errorf("ADD again, by ours: got %v, want code 102", err)
		}
		if got := leasedAddresses(t, h); got != want {
			t.Fatalf("leases: got %q, want %q", got, want)
		}
	}
	// Of an earlier boot's, nothing is attached: what is there is a link that came first.
	h.MustRun("touch", "-d", "1971-01-01", "/var/lib/cni/networks/n/10.9.0.2")
	result, err := h.Exec(c.Call("ADD", "host-local", host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24")}))).Result()
	if err != nil || result.IPs[0].Address.IP.String() != "10.9.0.2" {
		t.Errorf("ADD after a reboot: got %v, %v, want 10.9.0.2", result, err)
	}
	if err := ptpOn(h, c, "DEL", h.Dirs().Trestle).Err(); err != nil {
		t.Error(err)
	}
	h.AssertNoLease()
}

// Installations that copy the plugins one by one run host-local in the same process
// too; a file that only looks alike is executed.
func TestBridgeKnowsItsCopy(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	for _, test := range []struct {
		name string
		want int // programs executed
		edit func(data []byte) []byte
	}{
		{"a copy", 1, func(data []byte) []byte { return data }},
		{"another size", 2, func(data []byte) []byte { return append(data, 0) }},
		{"another build of the same size", 2, func(data []byte) []byte {
			// as two builds differ: in their build id, which stands behind the note's name
			data[bytes.Index(data, []byte("Go\x00\x00"))+4] ^= 1
			return data
		}},
	} {
		dir := t.TempDir()
		data, err := os.ReadFile(filepath.Join(h.Dirs().Trestle, "host-local"))
		if err != nil {
			t.Fatal(err)
		}
		h.WriteProgram(filepath.Join(dir, "host-local"), string(test.edit(data)))
		call := c.Call("ADD", "bridge", host.BridgeConfig(nil))
		call.Path = dir
		call.Strace = &host.Strace{Syscalls: "execve"}
		answer := h.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if len(answer.Trace.Execs) != test.want {
			t.Errorf("%s: ran %v, want %d", test.name, answer.Trace.Execs, test.want)
		}
		c.MustDel(host.BridgeConfig(nil))
	}
}

// STATUS of a full pool is the runtime's business only where it is asked to be:
// Kubernetes makes the node NotReady for it.
func TestHostLocalStatusWhenFull(t *testing.T) {
	h := newHostLocal(t, `[[{"subnet":"10.1.0.0/30"}]]`)
	h.must("ADD", "c1")
	for key, code := range map[string]int{``: 0, `"statusWhenFull":"ready",`: 0, `"statusWhenFull":"unavailable",`: 50, `"statusWhenFull":"no",`: 7} {
		config := strings.Replace(h.config(""), `"ranges"`, key+`"ranges"`, 1)
		a := h.callWith("STATUS", "", config)
		if a.code != code || code == 50 && !strings.Contains(a.msg, "1 of 1 in 10.1.0.0/30") {
			t.Errorf("%s: got %d %q, want code %d", key, a.code, a.msg, code)
		}
	}
	a := h.call("ADD", "c2")
	for _, want := range []string{"no IP addresses available in range set: 10.1.0.1-10.1.0.2", "1 of 1", "gateway", h.dir()} {
		if a.code != 101 || !strings.Contains(a.msg, want) {
			t.Errorf("ADD: got %d %q, want code 101 and %q", a.code, a.msg, want)
		}
	}
}

// On kernels whose handles prove nothing, a namespace is known by an id; setarch makes
// a program believe that it is on such a kernel.
func TestHostLocalHealsOnOlderKernels(t *testing.T) {
	if _, err := exec.LookPath("setarch"); err != nil {
		t.Skip(err)
	}
	host.NeedProofOfDeath(t)
	h := newHostLocal(t, `[[{"subnet":"10.1.0.0/30"}]]`)
	old := h
	old.prefix = []string{"setarch", "--uname-2.6"}
	holder := exec.Command("unshare", "--net", "sh", "-c", "echo; exec sleep 60")
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		_ = holder.Process.Kill() // it is killed once at least
		_ = holder.Wait()         // says that it was killed
	})
	defer kill()
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	old.netns = fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	old.must("ADD", "c1")
	if a := old.call("ADD", "c2"); a.code != 101 {
		t.Errorf("while it lives: got %d %q, want code 101", a.code, a.msg)
	}
	kill()
	old.netns = h.netns
	var got hostLocalAnswer
	host.Await(t, "the kernel has ended the namespace", func() bool { got = old.call("ADD", "c2"); return got.code != 101 })
	if got.code != 0 || len(got.addresses) != 1 {
		t.Errorf("when it is gone: got %+v", got)
	}
}
