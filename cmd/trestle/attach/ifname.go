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

// LockNetNS keeps others from attaching the container whose namespace that is. Whoever
// calls Add holds it from before the host is looked at until the interface is there: of two
// that attach one container at once, the second shall find the first one's interface and
// ports taken. What is no namespace is not locked; Add refuses it.
func LockNetNS(path string) (unlock func(), err error) {
	if !cni.IsNetNSAt(path) {
		return func() {}, nil
	}
	lock, err := flock.Open(path, flock.Exclusive, flock.DefaultWait)
	if err != nil {
		return nil, err
	}
	return func() { _ = lock.Unlock() }, nil // what was done under it is done
}

// nameInterface chooses the interface's name, under LockNetNS.
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

// linksIn are the names of the links in a namespace.
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
