package host

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// T is what the harness asks of a test; *testing.T and *testing.B have it, and
// Program makes one for programs.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	TempDir() string
}

// The addresses of the uplink (RFC 5737 and RFC 3849, documentation).
var (
	HostIPv4    = netip.MustParsePrefix("192.0.2.2/24")
	HostIPv6    = netip.MustParsePrefix("2001:db8::2/64")
	OutsideIPv4 = netip.MustParsePrefix("192.0.2.1/24")
	OutsideIPv6 = netip.MustParsePrefix("2001:db8::1/64")
)

// Uplink is the name of the interface of the Host that leads Outside.
const Uplink = "uplink0"

// Host is a throw-away host. Its own Namespace is what a runtime and its
// plugins run in.
type Host struct {
	*Namespace
	// Outside is another host, which the default routes of this one lead to. It
	// knows no way back to any address of a container.
	Outside *Namespace

	spaces spaces
	dirs   Dirs
}

// New makes a Host that goes when the test ends. The test fails where that is
// impossible, so that none is skipped for want of root.
func New(t T) *Host {
	t.Helper()
	if !mainCalled {
		t.Fatalf("TestMain must call host.Main, which also serves the host's first process")
	}
	dirs, err := builtDirs()
	if err != nil {
		t.Fatalf("build the plugins: %v", err)
	}
	h := &Host{dirs: dirs}
	if err := h.start(t); err != nil {
		t.Fatalf("make a host: %v", err)
	}
	h.Namespace = &Namespace{Name: "host", t: t, spaces: h.spaces}
	outside, err := h.makeOutside(t)
	if err != nil {
		t.Fatalf("make the outside host: %v", err)
	}
	h.Outside = outside
	return h
}

// start runs the first process of the namespaces and opens them. It lives as
// long as its standard input is open: until the end of the test or of this
// process, whatever ends that. (A parent-death signal would come with the end of
// the thread that started it.) The kernel kills the other processes with it.
func (h *Host) start(t T) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID}
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answer, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start its first process, which needs root: %w", err)
	}
	t.Cleanup(func() {
		hold(t, cmd)
		_ = life.Close()     // ends the process; nothing is written to it
		_ = cmd.Wait()       // its exit status says nothing
		_ = h.spaces.close() // opened for reading only
	})
	said, err := io.ReadAll(answer)
	if err != nil {
		return err
	}
	if string(said) != ready {
		return fmt.Errorf("%s", strings.TrimSpace(string(said)))
	}
	h.spaces, err = openSpaces(cmd.Process.Pid)
	return err
}

// hold keeps the host of a failed test until its first process is killed, if
// TRESTLE_HOLD is set: for whoever wants to see what the test left.
func hold(t T, first *exec.Cmd) {
	failing, ok := t.(interface{ Failed() bool })
	if !ok || !failing.Failed() || os.Getenv("TRESTLE_HOLD") == "" {
		return
	}
	fmt.Fprintf(os.Stderr, "a test failed, and its host is held; look at it, and then let it go:\n\tnsenter --target %d --mount --net --pid\n\tkill -9 %[1]d\n", first.Process.Pid)
	_ = first.Wait() // killed, as is said
}

// makeOutside makes the namespace, the veth pair to it, and the addresses and
// default routes of both ends.
func (h *Host) makeOutside(t T) (*Namespace, error) {
	outside := &Namespace{Name: "outside", t: t, spaces: h.spaces}
	anonymous, err := newNetNS()
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = anonymous.Close() }) // opened for reading only
	outside.spaces.net = anonymous
	err = h.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: Uplink}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(int(anonymous.Fd())),
		}
		return netlink.LinkAdd(veth)
	})
	if err != nil {
		return nil, fmt.Errorf("add veth pair %s: %w", Uplink, err)
	}
	err = outside.Do(func() error { return raise("eth0", OutsideIPv4, OutsideIPv6) })
	if err != nil {
		return nil, err
	}
	return outside, h.Do(func() error {
		if err := raise(Uplink, HostIPv4, HostIPv6); err != nil {
			return err
		}
		return addDefaultRoutes(OutsideIPv4.Addr(), OutsideIPv6.Addr())
	})
}

// raise brings lo and the link up, without duplicate address detection, which
// would change the state that Dump shows a second later.
func raise(name string, addresses ...netip.Prefix) error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0o644); err != nil {
		return err
	}
	for _, up := range []string{"lo", name} {
		link, err := netlink.LinkByName(up)
		if err != nil {
			return fmt.Errorf("look up %s: %w", up, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", up, err)
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	for _, address := range addresses {
		ip := &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
			return fmt.Errorf("add address %s to %s: %w", address, name, err)
		}
	}
	return nil
}

func addDefaultRoutes(gateways ...netip.Addr) error {
	for _, gateway := range gateways {
		bits := gateway.BitLen()
		everything := &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
		if err := netlink.RouteAdd(&netlink.Route{Dst: everything, Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("add default route via %s: %w", gateway, err)
		}
	}
	return nil
}

// Container makes a network namespace as `ip netns add` does, with lo up as
// runtimes leave it. It goes with the Host, or by Remove.
func (h *Host) Container(id string) *Container {
	h.t.Helper()
	h.MustRun("ip", "netns", "add", id)
	c := &Container{ID: id, NetNS: filepath.Join("/run/netns", id), host: h}
	c.Namespace = &Namespace{Name: id, t: h.t, spaces: h.spaces}
	err := h.Do(func() (err error) {
		c.spaces.net, err = os.Open(c.NetNS)
		return err
	})
	if err != nil {
		h.t.Fatalf("open the network namespace of %s: %v", id, err)
	}
	h.t.Cleanup(c.closeNetNS)
	c.MustRun("ip", "link", "set", "lo", "up")
	return c
}

// Container is a container as its runtime made it, before any plugin ran.
type Container struct {
	*Namespace
	ID    string
	NetNS string // what CNI_NETNS is

	host *Host
}

// Remove deletes the network namespace. The Namespace must not be used any more.
func (c *Container) Remove() {
	c.t.Helper()
	c.closeNetNS()
	c.host.MustRun("ip", "netns", "del", c.ID)
}

func (c *Container) closeNetNS() { _ = c.spaces.net.Close() } // opened for reading only; closed twice after Remove
