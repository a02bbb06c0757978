package host

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	initName = "trestle-test-init" // argv[0] of a Host's first process
	ready    = "ready\n"           // its answer when the Host is made
)

// runInit is the first process of a Host: it makes the private file systems,
// buries orphans, and ends, all others with it, when its input is closed.
func runInit() int {
	if err := mountPrivate(); err != nil {
		fmt.Println(err)
		return 1
	}
	go reap()
	fmt.Print(ready)
	if err := os.Stdout.Close(); err != nil {
		return 1
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	return 0
}

func reap() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}

// mountPrivate gives the mount namespace its own /proc, /sys and /run, and lays
// over /etc, /opt and /var/lib, so that nothing written there reaches the real
// host. /tmp and the rest are shared.
func mountPrivate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := mountNew("tmpfs", "/run"); err != nil {
		return err
	}
	for _, dir := range []string{"/etc", "/opt", "/var/lib"} {
		if err := overlay(dir); err != nil {
			return err
		}
	}
	// The first tmpfs lives on below: the overlays are on it.
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}, {"tmpfs", "/etc/cni"}, {"tmpfs", "/var/lib/cni"},
	} {
		if err := mountNew(m.kind, m.dir); err != nil {
			return err
		}
	}
	return nil
}

func mountNew(kind, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, dir, err)
	}
	return nil
}

func overlay(dir string) error {
	scratch := filepath.Join("/run", filepath.Base(dir))
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", dir, err)
	}
	return nil
}
