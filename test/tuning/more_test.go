package tuning

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// The list of a network may have two tuning entries: one of the distribution's and
// one of the administrator's, say.
const (
	firstEntry  = `"mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}`
	secondEntry = `"mtu": 1300, "mac": "0a:58:0a:01:00:07", "promisc": true, "allmulti": true, "txQLen": 77, "sysctl": {"net.ipv4.conf.lo.rp_filter": "2"}`
	whenTwice   = "0a:58:0a:01:00:07 1300 77 ALLMULTI PROMISC 1 2"
)

// TestTuningTwice: the DELs restore what was before both entries, in whichever
// order and with whatever configuration they come.
func TestTuningTwice(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before, inside := u.Dump(), u.c.Dump()
	for _, dels := range [][]string{{secondEntry, firstEntry}, {firstEntry, secondEntry}, {"", ""}} {
		u.Must(u.call("ADD", firstEntry))
		u.Must(u.call("ADD", secondEntry))
		u.expect(t, "after both ADDs", whenTwice)
		for _, entry := range dels {
			u.Must(u.call("DEL", entry))
		}
		u.expect(t, "after both DELs", untuned)
		u.AssertUnchanged(before)
		u.c.AssertUnchanged(inside)
	}
}

// TestTuningTwiceIsChecked: CHECK of an entry allows what a later one of the list has changed,
// and nothing else.
func TestTuningTwiceIsChecked(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	u.Must(u.call("ADD", firstEntry))
	u.Must(u.call("ADD", secondEntry)) // which has another mtu
	u.Must(u.call("CHECK", firstEntry))
	u.Must(u.call("CHECK", secondEntry))
	u.c.MustRun("ip", "link", "set", "eth0", "mtu", "1200")
	if err := u.Exec(u.call("CHECK", firstEntry)).Err(); host.CodeOf(err) != 103 {
		t.Errorf("with an mtu of somebody else: got %v, want code 103", err)
	}
}

// TestTuningTwiceFails: a second entry that fails takes back its own settings, and
// the first one's are still restored at DEL; also where it is killed.
func TestTuningTwiceFails(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before := u.Dump()
	const onlyFirst = "0a:58:0a:01:00:05 1400 1000 1 0"
	u.Must(u.call("ADD", firstEntry))
	bad := u.call("ADD", `"mtu": 1200, "promisc": true, "sysctl": {"net.ipv4.ip_forward": "nonsense"}`)
	if err := u.Exec(bad).Err(); err == nil {
		t.Fatal("got no error for a value that the kernel refuses")
	}
	u.expect(t, "after the second ADD failed", onlyFirst)
	u.Must(u.call("DEL", ""))
	u.expect(t, "after DEL", untuned)
	u.AssertUnchanged(before)

	for _, syscall := range []string{"sendto", "openat", "write", "renameat"} {
		for when, killed := 1, true; killed; when++ {
			u.Must(u.call("ADD", firstEntry))
			add := u.call("ADD", secondEntry)
			add.Strace = &host.Strace{Syscalls: syscall, Inject: []string{fmt.Sprintf("%s:signal=KILL:when=%d", syscall, when)}}
			killed = u.Exec(add).Trace.Injected > 0
			u.Must(u.call("DEL", ""))
			u.expect(t, "after DEL", untuned)
			u.AssertUnchanged(before)
			if t.Failed() || when > 200 {
				t.Fatalf("killed at %s %d", syscall, when)
			}
		}
	}
}

// TestTuningMTUOfBothEnds: what one end of a veth pair sends and the other is too
// small for is dropped without a word.
func TestTuningMTUOfBothEnds(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	u.MustRun("ip", "link", "set", "veth1", "up")
	u.MustRun("ip", "address", "add", "10.1.0.1/24", "dev", "veth1")
	u.c.MustRun("ip", "address", "add", "10.1.0.5/24", "dev", "eth0")
	before := u.Dump()
	for _, mtu := range []string{"1400", "3000"} {
		result, err := u.Exec(u.call("ADD", `"mtu": `+mtu)).Result()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(result.Interfaces[0].Mtu, result.Interfaces[1].Mtu); got != "0 "+mtu { // prevResult named none of the host veth
			t.Errorf("got MTUs %s in the answer", got)
		}
		if got := u.MustRun("cat", "/sys/class/net/veth1/mtu"); strings.TrimSpace(got) != mtu {
			t.Errorf("host veth: got MTU %s, want %s", got, mtu)
		}
		u.MustRun("ping", "-c1", "-W30", "-s2900", "10.1.0.5") // in fragments that fit
		u.c.MustRun("ping", "-c1", "-W30", "-s2900", "10.1.0.1")
		u.Must(u.call("DEL", ""))
		u.AssertUnchanged(before)
	}
}

// TestTuningLeavesOtherVeths: interfaces of several namespaces have the same
// numbers. Here the container's peer is in another one, and a veth of the host has
// all the numbers that the peer would have.
func TestTuningLeavesOtherVeths(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	c, third, fourth := h.Container("c1"), h.Container("c3"), h.Container("c4")
	third.MustRun("ip", "link", "add", "peer0", "index", "77", "type", "veth", "peer", "name", "eth0", "index", "55")
	third.MustRun("ip", "link", "set", "eth0", "netns", c.NetNS)
	h.MustRun("ip", "link", "add", "veth9", "index", "77", "type", "veth", "peer", "name", "eth0", "index", "55", "netns", fourth.ID)
	if got := c.MustRun("ip", "-o", "link", "show", "eth0"); !strings.HasPrefix(got, "55: eth0@if77:") {
		t.Fatalf("got %s, want the numbers 55 and 77", got)
	}
	u := tuned{h, c, `{"cniVersion": "1.1.0", "interfaces": [{"name": "veth9"}, {"name": "eth0", "sandbox": "/run/netns/c1"}]}`}
	before := h.Dump()
	u.Must(u.call("ADD", `"mtu": 1300`))
	h.AssertUnchanged(before, "file /run/cni/tuning", "file /run/trestle/tuning/")
	if got := c.MustRun("ip", "link", "show", "eth0"); !strings.Contains(got, "mtu 1300") {
		t.Errorf("got %s, want the container's MTU set", got)
	}
}

// TestTuningOldRecord: what a release without stamps recorded is restored, and
// reaped, by this one.
func TestTuningOldRecord(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"DEL", "GC"} {
		u := newTuned(t)
		before := u.Dump()
		u.c.MustRun("ip", "link", "set", "eth0", "mtu", "1400")
		identity := strings.Fields(u.MustRun("stat", "-L", "-c", "%d %i", u.c.NetNS))
		u.WriteProgram("/run/cni/tuning/c1_eth0.json", fmt.Sprintf(`{"mtu": 1500, "trestle": {
			"Owner": {"Network": "n", "ContainerID": "c1", "IfName": "eth0"}, "Sandbox": {"netns": %q, "device": %s, "inode": %s},
			"Before": [{"Name": "mtu", "Value": "1500"}], "Made": [{"Name": "mtu", "Value": "1400"}]}}`, u.c.NetNS, identity[0], identity[1]))
		u.Must(u.call("GC", "")) // it is alive
		u.expect(t, "after a GC without a list", "0a:58:0a:01:00:05 1400 1000 0 0")
		call := u.call(command, `"cni.dev/valid-attachments": []`)
		if command == "DEL" {
			call.NetNS = ""
		}
		u.Must(call)
		u.expect(t, "after "+command, untuned)
		u.AssertUnchanged(before)
	}
}

// TestTuningUpgrade: what the build before recorded, wherever, is restored by this one,
// added to by a further ADD, and reaped; without its record the file tells.
func TestTuningUpgrade(t *testing.T) {
	t.Parallel()
	for _, dataDir := range []string{"", `, "dataDir": "/run/elsewhere"`} {
		for _, use := range []string{"DEL", "GC", "ADD", "GC, record lost"} {
			t.Run(use+dataDir, func(t *testing.T) {
				t.Parallel()
				u := newTuned(t)
				if u.Dirs().Previous == "" {
					t.Skip("no earlier build: make previous")
				}
				before := u.Dump()
				add := u.call("ADD", everything+dataDir)
				add.Plugin = filepath.Join(u.Dirs().Previous, "tuning")
				u.Must(add)
				u.Must(u.call("GC", "")) // it is alive
				u.expect(t, "after a GC without a list", whenTuned)
				u.MustRun("sh", "-ec", "ls /run/trestle/tuning/n/*; ! find /run/trestle/tuning -type l | grep .")
				switch use {
				case "ADD":
					u.Must(u.call("ADD", `"mtu": 1300`), u.call("DEL", ""))
				case "DEL":
					u.Must(u.call("DEL", "")) // a configuration that does not say where
				case "GC, record lost":
					u.MustRun("rm", "-r", "/run/trestle/tuning")
					fallthrough
				case "GC":
					u.Must(u.call("GC", `"cni.dev/valid-attachments": []`+dataDir))
				}
				u.expect(t, "after "+use, untuned)
				u.AssertUnchanged(before)
			})
		}
	}
}

// TestTuningAnnouncesTheMAC: an address that is used again with a MAC of tuning's
// reaches who talked to its last user, neighbour and host, in both families.
func TestTuningAnnouncesTheMAC(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	neighbour := h.Container("k")
	neighbour.MustAdd(host.BridgeConfig(object{"name": "keep"}))
	network := h.Network(`{"cniVersion": "1.0.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "br0", "isGateway": true, "ipam": {"type": "static", "addresses": [
			{"address": "10.9.0.9/24", "gateway": "10.9.0.1"}, {"address": "fd09::9/64", "gateway": "fd09::1"}]}},
		{"type": "tuning", "capabilities": {"mac": true}}]}`)
	for i, mac := range []string{"02:00:00:00:00:0a", "02:00:00:00:00:0b"} {
		c := h.Container(fmt.Sprint("c", i))
		a := c.Attachment()
		a.CapabilityArgs = map[string]any{"mac": mac}
		if _, err := network.Add(a); err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"10.9.0.9", "fd09::9"} {
			if i > 0 { // before anybody asks
				host.Await(t, "the neighbour knows the new MAC of "+address, func() bool {
					return strings.Contains(neighbour.MustRun("ip", "neigh", "show", address), "lladdr "+mac)
				})
				host.Await(t, "the host does not know the former MAC of "+address, func() bool {
					known := h.MustRun("ip", "neigh", "show", address)
					return !strings.Contains(known, "lladdr ") || strings.Contains(known, "lladdr "+mac)
				})
			}
			for _, from := range []*host.Namespace{neighbour.Namespace, h.Namespace} {
				if err := from.Ping(netip.MustParseAddr(address)); err != nil {
					t.Error(err)
				}
			}
		}
		if i == 0 {
			if err := network.Del(a); err != nil {
				t.Fatal(err)
			}
		}
	}
}
