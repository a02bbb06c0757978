package bridge

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestBridgeAddWhileANamespaceEnds: a container whose namespace is gone without DEL comes
// again, in another one, while the kernel still has the former one. The ADD waits until the
// kernel says that it has gone; what holds it may let go, or not.
func TestBridgeAddWhileANamespaceEnds(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string]object{
		"host-local": {}, // whose lease knows the former namespace
		"static":     {"ipam": object{"type": "static", "addresses": []any{object{"address": "10.9.0.2/24"}}}},
	} {
		for _, ends := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/ends %t", name, ends), func(t *testing.T) {
				t.Parallel()
				addWhileEnding(t, host.BridgeConfig(changes), ends)
			})
		}
	}
}

// TestBridgeAddBesideALivingNamespace: where the former namespace is alive, as a path to it
// shows, nothing is about to go, and an ADD without a lease of ours does not wait for it.
func TestBridgeAddBesideALivingNamespace(t *testing.T) {
	t.Parallel()
	host.NeedProofOfDeath(t)
	for name, changes := range map[string]object{
		"static":  {"ipam": object{"type": "static", "addresses": []any{object{"address": "10.9.0.2/24"}}}},
		"layer 2": {"ipam": nil, "isGateway": nil, "isDefaultGateway": nil, "ipMasq": nil},
		"looking": {"ipam": object{"type": "looking"}, "ipMasq": nil, "isDefaultGateway": nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.WriteProgram("/opt/ipam/looking", lookingIPAM)
			h.WriteProgram("/run/ipam.answer", leaseOfBoth)
			former, again := h.Container("c1"), h.Container("c2")
			add := former.Call("ADD", "bridge", host.BridgeConfig(changes))
			add.Path = h.Dirs().Trestle + ":/opt/ipam"
			h.Must(add)
			before := h.Dump()
			add.NetNS = again.NetNS
			add.Strace = &host.Strace{Syscalls: "bind"}
			answer := h.Exec(add)
			if err := answer.Err(); host.CodeOf(err) != 102 || !strings.Contains(err.Error(), "leads to another network namespace, which is alive ("+former.NetNS) {
				t.Errorf("got %v, want code 102, and where the former namespace is", err)
			}
			if strings.Contains(answer.Trace.Text, "nl_groups=0x00000001") {
				t.Errorf("got a wait for links, want none:\n%s", answer.Trace.Text)
			}
			h.AssertUnchanged(before, "ipam.log")
		})
	}
}

// wanted are networks on which two containers ask for the same, and how the second is refused.
func wanted() map[string]struct {
	config, says string
	code         uint
} {
	return map[string]struct {
		config, says string
		code         uint
	}{
		"an address":     {host.BridgeConfig(object{"args": object{"cni": object{"ips": []string{"10.9.0.77"}}}}), "c1", 102},
		"a port":         {host.BridgeConfig(object{"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}}}), "c1", 102},
		"the last lease": {host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/30")}), "10.9.0.0/30", 101},
	}
}

// TestBridgeAddWhileAHolderEnds: another container asks for the address, or the host port, of
// one whose namespace is gone without DEL, while the kernel still has that; or for any address of
// a pool that only such a one has filled. The ADD waits until the kernel says that it has gone,
// and is given it.
func TestBridgeAddWhileAHolderEnds(t *testing.T) {
	t.Parallel()
	host.NeedProofOfDeath(t)
	for name, want := range wanted() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addWhileHeld(t, want.config, "c2", true)
		})
	}
}

// TestBridgeAddBesideAHolder: where its path, or a process without that, shows that the holder
// lives on, there is nothing to wait for.
func TestBridgeAddBesideAHolder(t *testing.T) {
	t.Parallel()
	for name, want := range wanted() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			holder := h.Container("c1")
			holder.MustAdd(want.config)
			stop := holder.Start(host.Command{Args: []string{"sleep", "600"}})
			defer stop()
			add := h.Container("c2").Call("ADD", "bridge", want.config)
			add.Strace = &host.Strace{Syscalls: "bind"}
			for _, lives := range []string{"at its path", "by a process"} {
				answer := h.Exec(add)
				if err := answer.Err(); host.CodeOf(err) != want.code || !strings.Contains(err.Error(), want.says) {
					t.Errorf("holder that lives %s: got %v, want code %d, and %s named", lives, err, want.code, want.says)
				}
				if strings.Contains(answer.Trace.Text, "nl_groups=0x08000000") {
					t.Errorf("holder that lives %s: got a wait for a namespace to end, want none:\n%s", lives, answer.Trace.Text)
				}
				if lives == "at its path" {
					holder.Remove()
				}
			}
		})
	}
}

func addWhileEnding(t *testing.T, config string, ends bool) { addWhileHeld(t, config, "c1", ends) }

// addWhileHeld adds the next container while a descriptor holds the namespace of c1, which is
// gone without DEL.
func addWhileHeld(t *testing.T, config, next string, ends bool) {
	t.Helper()
	h := host.NewRouting(t)
	former := h.Container("c1")
	former.MustAdd(config)
	again := h.Exec(former.Call("ADD", "bridge", config)).Err()
	if host.CodeOf(again) != 102 || strings.Contains(again.Error(), "another network namespace") {
		t.Errorf("ADD again in the same namespace: got %v, want code 102, without a wait", again)
	}
	var holder *os.File
	err := h.Do(func() (err error) {
		holder, err = os.Open(former.NetNS)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close() }() // opened to hold the namespace; closed twice where it ends
	former.Remove()
	c := h.Container(next)
	answered := make(chan error, 1)
	go func() { answered <- h.Exec(c.Call("ADD", "bridge", config)).Err() }()
	host.Await(t, "the ADD waits for namespaces or links to go", func() bool { return len(answered) > 0 || hearsOfEnds(h) })
	if !ends {
		if err := <-answered; host.CodeOf(err) != 102 {
			t.Errorf("got %v, want code 102", err)
		}
		return
	}
	if len(answered) > 0 {
		t.Fatalf("got %v, want it to wait", <-answered)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil {
		return
	}
	// A kernel that is busy with hosts of a thousand ports takes longer than the wait.
	host.Await(t, "the former host veth is gone", func() bool { return !strings.Contains(h.MustRun("ip", "link"), "trestle:n/c1/eth0") })
	c.MustAdd(config)
}

// hearsOfEnds says whether a socket has joined the group of numbers of namespaces, or of
// links (/proc/net/netlink, net/netlink/af_netlink.c).
func hearsOfEnds(h *host.Host) bool {
	const links, namespaces = 1 << 0, 1 << 27
	for line := range strings.Lines(h.MustRun("cat", "/proc/net/netlink")) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[1] != "0" {
			continue
		}
		if groups, err := strconv.ParseUint(fields[3], 16, 32); err == nil && groups&(links|namespaces) != 0 {
			return true
		}
	}
	return false
}
