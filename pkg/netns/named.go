package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/flock"
)

// NamedDir is the directory of the namespaces that have a name, those of ip-netns(8).
const NamedDir = "/run/netns"

// Make makes a namespace at NamedDir/NAME, as "ip netns add" does.
func Make(name string) error {
	if err := shareNamedDir(); err != nil {
		return fmt.Errorf("make %s a shared mount: %w", NamedDir, err)
	}
	return away(func() error {
		handle, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return handle.Close()
	})
}

// Remove removes what Make made, as far as it is there. The namespace ends when nothing else
// holds it.
func Remove(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) { // it is not mounted: whoever made it was killed before, or while removing it
		err = nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// shareNamedDir makes NamedDir a mount point of its own, and a shared one, as everyone has to
// before the first namespace in it (ip netns add does). Whoever comes later binds the directory
// on itself, with what is mounted there: if /run is a private mount, the namespaces that were
// there already are mounted twice then, and nobody can unmount the lower ones any more. It is
// shared so that a mount namespace made meanwhile does not keep a namespace that is removed here.
func shareNamedDir() error {
	if err := os.MkdirAll(NamedDir, 0o755); err != nil {
		return err
	}
	lock, err := flock.Open(NamedDir, flock.Exclusive, flock.DefaultWait) // as ip netns add does
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }() // it is of no use any more
	share := func() error { return unix.Mount("", NamedDir, "", unix.MS_SHARED|unix.MS_REC, "") }
	if err := share(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(NamedDir, NamedDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return share()
}
