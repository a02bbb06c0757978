package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// Names are the containers of trestle run.
func Names() []string {
	entries, err := os.ReadDir(dir())
	if err != nil {
		return nil // there are none
	}
	var names []string
	for _, entry := range entries {
		if entry.Name()[0] != '.' {
			names = append(names, entry.Name())
		}
	}
	return names
}

// Find is the container of that name, held by another process.
func Find(name string) (*Container, error) {
	data, err := rawfile.Read(filepath.Join(dir(), filepath.Base(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cni.ConfigErrorf("container %q: trestle runs none of that name; see trestle ls", name)
	}
	var s Container
	if err == nil {
		err = cni.Unmarshal(data, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("read what container %s is: %w", name, err)
	}
	return &s, nil
}

// Stop has the container's trestle hand SIGTERM on to the command, and after the grace
// period SIGKILL, and waits until it has cleared away.
func (s *Container) Stop(ctx context.Context, grace time.Duration) error {
	fd, err := unix.PidfdOpen(s.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // killed; the next trestle run or gc clears away
	}
	if err != nil {
		return fmt.Errorf("find the trestle of container %s: %w", s.Name, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	if !s.isHeld() {
		return nil // it ended before, and the number is another process's
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("stop container %s: %w", s.Name, err)
	}
	if gone(ctx, fd, grace) {
		return nil
	}
	if ctx.Err() != nil { // whoever waits no longer has not asked for SIGKILL
		return fmt.Errorf("stop container %s: it has got SIGTERM and has not ended yet: %w", s.Name, ctx.Err())
	}
	const clearing, again = 30 * time.Second, 100 * time.Millisecond
	for end := time.Now().Add(clearing); ; {
		// not trestle, which is to clear away; and again, since the command may only be on its
		// way into the container
		if err := s.killCommand(); err != nil {
			return fmt.Errorf("kill container %s: %w", s.Name, err)
		}
		switch {
		case gone(ctx, fd, again):
			return nil
		case ctx.Err() != nil || !time.Now().Before(end):
			return fmt.Errorf("container %s: its trestle (process %d) does not end", s.Name, s.PID)
		}
	}
}

// isHeld says whether a trestle waits for the container.
func (s *Container) isHeld() bool {
	file, err := rawfile.Open(s.path())
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // gives up the lock, if there is one
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// gone waits for the end of a process.
func gone(ctx context.Context, pidfd int, wait time.Duration) bool {
	const step = 200 * time.Millisecond // to notice the end of the context
	for end := time.Now().Add(wait); ; {
		left := min(max(time.Until(end), 0), step)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left/time.Millisecond))
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) || ctx.Err() != nil || !time.Now().Before(end) {
			return false
		}
	}
}

// killCommand kills the command: the child of the container's trestle that is in the
// container's namespace. Another child is a plugin that clears away already.
func (s *Container) killCommand() error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.PID))
	failed := []error{err}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(child)
			if err == nil && s.hasInside(pid) {
				err = unix.Kill(pid, unix.SIGKILL)
			}
			if !errors.Is(err, unix.ESRCH) { // it has ended since
				failed = append(failed, err)
			}
		}
	}
	return errors.Join(failed...)
}

func (s *Container) hasInside(pid int) bool {
	container, err := os.Stat(s.NetNS)
	if err != nil {
		return false // cleared away
	}
	process, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && os.SameFile(container, process)
}
