package host

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a place where commands and functions run: the network namespace
// of the Host, of a container or of Outside, with the Host's files and processes.
type Namespace struct {
	Name string

	t      T
	spaces spaces
	brief  bool // waits a short time for answers
}

// spaces are the namespaces of a process, open.
type spaces struct{ mount, net, pid *os.File }

func openSpaces(pid int) (s spaces, err error) {
	for _, file := range []struct {
		to   **os.File
		name string
	}{{&s.mount, "mnt"}, {&s.net, "net"}, {&s.pid, "pid"}} {
		*file.to, err = os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, file.name))
		if err != nil {
			return s, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s spaces) close() error {
	return errors.Join(s.mount.Close(), s.net.Close(), s.pid.Close())
}

// enter moves the calling thread, for good. Only processes that it starts are in
// the pid namespace (setns(2)).
func (s spaces) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	for _, space := range []struct {
		file *os.File
		kind int
	}{{s.mount, unix.CLONE_NEWNS}, {s.net, unix.CLONE_NEWNET}, {s.pid, unix.CLONE_NEWPID}} {
		if err := unix.Setns(int(space.file.Fd()), space.kind); err != nil {
			return fmt.Errorf("enter %s: %w", space.file.Name(), err)
		}
	}
	return nil
}

// Do calls fn in the namespace: the files that it opens, the sockets and the
// processes that it makes are there. Sockets stay there when fn has returned.
// This holds for fn's own goroutine only; fn must not end the test (Fatalf).
func (n *Namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := n.spaces.enter(); err != nil {
			return fmt.Errorf("enter %s: %w", n.Name, err)
		}
		return fn()
	})
}

// onThread calls fn on a thread that ends with it, never on the main thread,
// whose namespaces are those that /proc/self shows.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, which ends the thread
		if unix.Gettid() == unix.Getpid() {
			result <- onThread(fn) // on another one, while we hold this
			runtime.UnlockOSThread()
			return
		}
		err := errors.New("the function ended its goroutine")
		defer func() { result <- err }()
		err = fn()
	}()
	return <-result
}

// newNetNS makes a network namespace that lives as long as it is open or used.
func newNetNS() (file *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return file, err
}
