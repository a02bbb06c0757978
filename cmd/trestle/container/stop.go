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

// Names are the names of trestle run's containers.
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

// Find is the container with that name, which another process holds.
func Find(name string) (*Container, error) {
	data, err := rawfile.Read(filepath.Join(dir(), filepath.Base(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cni.ConfigErrorf("container %q: trestle runs no container with that name; see trestle ls", name)
	}
	var s Container
	if err == nil {
		err = cni.Unmarshal(data, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("read the file of container %s: %w", name, err)
	}
	return &s, nil
}

// Stop sends SIGTERM to the container's trestle process, which forwards it to the command. After
// the grace period it kills the command. It waits until the trestle process has cleaned up.
func (s *Container) Stop(ctx context.Context, grace time.Duration) error {
	fd, err := unix.PidfdOpen(s.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // it was killed; the caller cleans up (Abandoned)
	}
	if err != nil {
		return fmt.Errorf("find the trestle of container %s: %w", s.Name, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	if !s.isHeld() {
		return nil // it has ended, and the PID is another process's now
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("stop container %s: %w", s.Name, err)
	}
	if gone(ctx, fd, grace) {
		return nil
	}
	if ctx.Err() != nil { // an interrupt before the grace period has passed does not ask for SIGKILL
		return fmt.Errorf("stop container %s: it was sent SIGTERM and has not ended yet: %w", s.Name, ctx.Err())
	}
	const cleaning, again = 30 * time.Second, 100 * time.Millisecond
	for killed, end := false, time.Now().Add(cleaning); ; {
		// Only the command is killed, since its trestle process has to clean up: that is tried
		// until it was there to be killed, since it may not have entered the container yet.
		if !killed {
			if killed, err = s.killCommand(); err != nil {
				return fmt.Errorf("kill container %s: %w", s.Name, err)
			}
		}
		switch {
		case gone(ctx, fd, again):
			return nil
		case ctx.Err() != nil || !time.Now().Before(end):
			return fmt.Errorf("container %s: its trestle (process %d) does not end", s.Name, s.PID)
		}
	}
}

// isHeld says whether a trestle process holds the container.
func (s *Container) isHeld() bool {
	file, err := rawfile.Open(s.path())
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // which releases the lock, if this took it
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// gone waits until the process has ended, and says whether it has.
func gone(ctx context.Context, pidfd int, wait time.Duration) bool {
	const step = 200 * time.Millisecond // to notice that ctx has ended
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

// killCommand kills the command: the child of the container's trestle process that is in the
// container's namespace, if there is one. Another child is a plugin, which cleans up.
func (s *Container) killCommand() (killed bool, err error) {
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
				killed = killed || err == nil
			}
			if !errors.Is(err, unix.ESRCH) { // it has ended meanwhile
				failed = append(failed, err)
			}
		}
	}
	return killed, errors.Join(failed...)
}

func (s *Container) hasInside(pid int) bool {
	container, err := os.Stat(s.NetNS)
	if err != nil {
		return false // removed
	}
	process, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && os.SameFile(container, process)
}
