package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NewRouting is New of a host that forwards already. ADD switches that on where
// it is off, and leaves it on, which AssertUnchanged would notice.
func NewRouting(t T) *Host {
	t.Helper()
	h := New(t)
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return h
}

// NewWithVLANs is NewRouting; it skips the test where the kernel knows no VLANs.
// `make test-vm`, which boots a kernel for these tests, sets TRESTLE_VM and bears
// no skip.
func NewWithVLANs(t interface {
	T
	Skipf(format string, args ...any)
},
) *Host {
	t.Helper()
	h := NewRouting(t)
	switch err := h.Do(TryVLANs); {
	case err == nil:
	case !errors.Is(err, unix.EOPNOTSUPP):
		t.Fatalf("%v", err)
	case os.Getenv("TRESTLE_VM") != "":
		t.Fatalf("this kernel was booted for the tests of VLANs, but: %v", err)
	default:
		t.Skipf("this kernel has no VLANs (%v); `make test-vm` boots one that has", err)
	}
	return h
}

// TryVLANs makes, and deletes, a bridge that filters VLANs and an interface over
// it; EOPNOTSUPP says that the kernel lacks one of them.
func TryVLANs() (err error) {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, VlanFiltering: new(bool)}
	*bridge.VlanFiltering = true
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("CONFIG_BRIDGE_VLAN_FILTERING: %w", err)
	}
	defer func() { err = errors.Join(err, netlink.LinkDel(bridge)) }()
	over := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "probe.1", ParentIndex: bridge.Index}, VlanId: 1}
	if err := netlink.LinkAdd(over); err != nil {
		return fmt.Errorf("CONFIG_VLAN_8021Q: %w", err)
	}
	return nil
}

// NeedProofOfDeath skips the test where the end of a namespace cannot be proved, since the kernel
// gives it no cookie (SO_NETNS_COOKIE, since 5.14; docs/kernels.md): there only a reboot proves
// a container dead.
func NeedProofOfDeath(t interface {
	T
	Skip(args ...any)
},
) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatalf("open a socket: %v", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	switch _, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); {
	case errors.Is(err, unix.ENOPROTOOPT):
		t.Skip("this kernel, of before 5.14, gives no cookie of a namespace, and so no proof but a boot")
	case err != nil:
		t.Fatalf("ask for the namespace's cookie: %v", err)
	}
}

// AttachedContainer is a container that has an eth0, as the bridge plugin would
// leave it, and veth1 on the host for c1, for a plugin that is chained behind that; prevResult is what the
// bridge plugin would have answered, and a key that nobody knows.
func (h *Host) AttachedContainer(id string) (c *Container, prevResult string) {
	h.t.Helper()
	c = h.Container(id)
	veth := "veth" + strings.TrimPrefix(id, "c")
	h.MustRun("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "address", "0a:58:0a:01:00:05", "netns", id)
	c.MustRun("ip", "link", "set", "eth0", "up")
	return c, fmt.Sprintf(`{"cniVersion": "1.1.0", "interfaces": [{"name": %q, "mac": "02:00:00:00:00:09"},
		{"name": "eth0", "mac": "0a:58:0a:01:00:05", "mtu": 1500, "sandbox": %q}],
		"ips": [{"address": "10.1.0.5/24", "interface": 1}], "x-unknown": {"kept": true}}`, veth, c.NetNS)
}

// WriteProgram makes an executable file on the host. Another process writes it: what this one has
// open for writing is open in each process that it starts meanwhile, until that executes its
// program, and a file that somebody may write to is not executed ("text file busy").
func (h *Host) WriteProgram(path, content string) {
	h.t.Helper()
	const write = `mkdir -p "$(dirname "$0")"; cat >"$0"; chmod 755 "$0"`
	output, err := h.Run(Command{Args: []string{"sh", "-ec", write, path}, Stdin: content})
	if err != nil || output.Code != 0 {
		h.t.Fatalf("write %s: %v %s", path, err, output.Stderr)
	}
}

// SaveRuleset and LoadRuleset are shell scripts that save all rules of the host
// to files, whose path begins with %[1]s, and load them in the place of all that
// are there, by the program that each backend's users have.
const (
	SaveRuleset = `for f in inet bridge; do nft list table $f trestle 2>&-; done >%[1]s.nft || true; iptables-save >%[1]s.v4; ip6tables-save >%[1]s.v6`
	LoadRuleset = `nft flush ruleset; nft -f %[1]s.nft; iptables-restore %[1]s.v4; ip6tables-restore %[1]s.v6`
)

// Restore runs `trestle restore`.
func (h *Host) Restore() {
	h.t.Helper()
	h.MustRun(filepath.Join(h.dirs.Trestle, "trestle"), "restore")
}

// Await looks again and again whether it is done: for what no event tells of.
func Await(t T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// ListRuleset is a command of the shell that lists nftables' rules when no element is among
// them that a plugin has deleted: the kernel lists those until their time is over, a tick or
// two later.
const ListRuleset = `{ while rules=$(nft list ruleset) && echo "$rules" | grep -q ' expires '; do sleep 0.01; done; echo "$rules"; }`

// Kept begins the dump's lines of what of a network stays for good: the cursor,
// which keeps an address from being given again at once, the lock beside it, that
// of bridges, and what a kill may leave of the record of a bridge's addresses
// until the next GC.
var Kept = []string{"file /var/lib/cni/networks/", "file /run/trestle/bridge/"}

// AssertNoLease fails the test if network n has given out an address.
func (h *Host) AssertNoLease() {
	h.t.Helper()
	err := h.Do(func() error {
		files, err := os.ReadDir("/var/lib/cni/networks/n")
		for _, f := range files {
			if _, notAddress := netip.ParseAddr(f.Name()); notAddress == nil {
				h.t.Errorf("address %s is still leased", f.Name())
			}
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	if err != nil {
		h.t.Fatalf("%v", err)
	}
}
