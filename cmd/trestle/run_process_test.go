package main

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is the program that becomes a command, too: process.run runs itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == enterCommand {
		os.Exit(enter(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// terminal is a new terminal, of which nobody is the foreground.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() }) // nothing was written
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	slave := os.NewFile(fd, "terminal")
	t.Cleanup(func() { _ = slave.Close() }) // likewise
	return slave
}

// TestSignalBeforeTheCommand: what arrives before the command is forked ends it, also a Ctrl-C
// on a terminal, which sends that to the command itself once it is there.
func TestSignalBeforeTheCommand(t *testing.T) {
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	for name, input := range map[string]*os.File{"a terminal": terminal(t), "no terminal": stdin} {
		for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
			os.Stdin = input
			signals := make(chan os.Signal, 1)
			signals <- s
			err := process{program: "/bin/sleep", args: []string{"sleep", "20"}}.run(signals)
			var status exitStatus
			if !errors.As(err, &status) || int(status) != 128+int(s) {
				t.Errorf("%s on %s: got %v, want exit status %d", s, name, err, 128+int(s))
			}
		}
	}
}
