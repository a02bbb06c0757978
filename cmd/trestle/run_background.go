package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// The process that waits for a command in the background is this program, run again with the
// same arguments, this variable, and a pipe as descriptor readyFD. It writes a byte to the pipe
// when the command is about to start; if the pipe is closed without one, it will not start.
const (
	backgroundVariable = "TRESTLE_BACKGROUND"
	readyFD            = 3
)

func isBackground() bool { return os.Getenv(backgroundVariable) != "" }

// runInBackground starts that process, and returns when it is ready. Until then its output is
// this command's.
func runInBackground(p *ui.Printer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), backgroundVariable+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout = os.Stdout // until enterBackground replaces it
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return err
	}
	if _, err := io.Copy(p.Err, said); err != nil { // until enterBackground closes it
		return err
	}
	if n, _ := ready.Read(make([]byte, 1)); n == 1 {
		return cmd.Process.Release()
	}
	return statusOf(cmd.Wait())
}

// openLog opens the log for appending; without a log the null device. A FIFO without a reader
// is an error, since opening it would block without a word.
func openLog(path string, create int) (*os.File, error) {
	if path == "" {
		path = os.DevNull
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK|create, 0o600)
	if errors.Is(err, unix.ENXIO) {
		return nil, cni.ConfigErrorf("--log: %s is a FIFO, and nobody reads it; start its reader first, or name a file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	if err := unix.SetNonblock(int(log.Fd()), false); err != nil { // the command expects writes to block while a reader is slow
		return nil, errors.Join(fmt.Errorf("--log: %s: %w", path, err), log.Close())
	}
	return log, nil
}

// enterBackground tells the process that waits (runInBackground) to return, and sends output
// from here on to the log, which it creates if output is nil.
func enterBackground(log string, output *os.File) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	if output == nil {
		if output, err = openLog(log, os.O_CREATE); err != nil {
			return err
		}
	}
	if err := os.Unsetenv(backgroundVariable); err != nil {
		return err
	}
	ready := os.NewFile(readyFD, "ready")
	_, err = ready.Write([]byte{1})
	err = errors.Join(err, ready.Close())
	for fd, to := range []*os.File{null, output, output} {
		err = errors.Join(err, unix.Dup3(int(to.Fd()), fd, 0))
	}
	return errors.Join(err, output.Close(), null.Close())
}
