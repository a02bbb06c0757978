package attach

import (
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// LockNetNS keeps other processes from attaching the container with that namespace. A caller
// of Add holds it from before it takes the snapshot: of two that attach one container at the
// same time, the second finds the first one's interface name and ports taken. A path that is no
// namespace is not locked; Add refuses it.
func LockNetNS(path string) (unlock func(), err error) {
	if !cni.IsNetNSAt(path) {
		return func() {}, nil
	}
	lock, err := flock.Open(path, flock.Exclusive, flock.DefaultWait)
	if err != nil {
		return nil, err
	}
	return func() { _ = lock.Unlock() }, nil // the lock ends with the process at the latest
}

// nameInterface chooses the interface's name, or refuses one that is taken; the caller holds
// LockNetNS.
func nameInterface(rt *libcni.RuntimeConf) error {
	taken, err := linksIn(rt.NetNS)
	switch {
	case err != nil:
	case rt.IfName == "":
		rt.IfName = "eth0"
		for n := 1; taken[rt.IfName]; n++ {
			rt.IfName = fmt.Sprintf("eth%d", n)
		}
	case taken[rt.IfName]:
		err = cni.ConfigErrorf("--ifname: there is an interface %s in %s already; choose another, or leave it out for a free one", rt.IfName, rt.NetNS)
	}
	return err
}

// linksIn is the set of the names of links in a namespace.
func linksIn(path string) (map[string]bool, error) {
	names := map[string]bool{}
	err := netns.Do(path, func(nl *netlink.Handle) error {
		links, err := dump.Complete(nl.LinkList)
		for _, link := range links {
			names[link.Attrs().Name] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list links of %s: %w", path, err)
	}
	return names, nil
}
