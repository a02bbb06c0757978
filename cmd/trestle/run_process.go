package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/term"

	"github.com/trestle-cni/trestle/cmd/internal/cli"
	"github.com/trestle-cni/trestle/cmd/trestle/container"
)

// process is the command of trestle run.
type process struct {
	netns, resolvConf string   // see container.Enter
	networks          []string // to attach its namespace to before
	program           string   // its path
	args              []string
}

// enterCommand is the argument with which trestle runs itself in the process that becomes the
// command. It is not one of cobra's commands, so that main does not handle signals for it: a
// signal is to end it as it would end the command.
const enterCommand = "__enter"

// enter becomes the command. It returns an exit code if it cannot.
func enter(args []string) int {
	const netns, resolvConf, program, command = 0, 1, 2, 3
	if len(args) <= command {
		return cli.Wrong
	}
	err := container.Enter(args[netns], args[resolvConf], args[program], args[command:])
	os.Stderr.WriteString("trestle: " + err.Error() + "\n")
	return notExecutable
}

// run starts the command, forwards signals, and returns its exit status as an error. A signal
// that has arrived since listen, and before the command begins, ends it there. If trestle is killed, so is the command: the kernel does that
// when the thread that started it ends, so this thread is kept.
func (c process) run(signals chan os.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	held, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = release.Close() }() // the byte that matters was written, or nobody waits for it
	cmd := exec.Command(self, append([]string{enterCommand, c.netns, c.resolvConf, c.program}, c.args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{held} // container.HeldFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	defer signal.Stop(signals)
	if err := errors.Join(cmd.Start(), held.Close()); err != nil {
		return err
	}
	if s, ok := pending(signals); ok {
		_ = cmd.Process.Kill() // it may have ended by the signal
		_ = cmd.Wait()         // its status is the signal's
		return exitStatus(128 + int(s))
	}
	_, _ = release.Write([]byte{1}) // it fails if the process has ended, which Wait tells
	done := make(chan struct{})
	go forward(cmd.Process, signals, done)
	err = cmd.Wait()
	close(done)
	return statusOf(err)
}

// listen queues signals from here on, for the command.
// One that came before, and ended ctx, is an error of what is to run.
func listen(ctx context.Context, what string) (chan os.Signal, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	if err := ctx.Err(); err != nil {
		signal.Stop(signals)
		return nil, fmt.Errorf("run %s: stopped before the command began: %w", what, err)
	}
	return signals, nil
}

// pending is a signal that has arrived so far, and that ends a program which does not handle it.
// The command has not begun: a terminal has not sent it what came before the fork, and what came
// after that it would get twice.
func pending(signals <-chan os.Signal) (s syscall.Signal, ok bool) {
	for {
		select {
		case arrived := <-signals:
			if s, ok = arrived.(syscall.Signal); ok && s != syscall.SIGWINCH {
				return s, true
			}
		default:
			return 0, false
		}
	}
}

func forward(child *os.Process, signals <-chan os.Signal, done <-chan struct{}) {
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	for {
		select {
		case s := <-signals:
			if terminal && (s == syscall.SIGINT || s == syscall.SIGQUIT) {
				continue // the terminal sends these to the command as well
			}
			_ = child.Signal(s) // it may have ended just now
		case <-done:
			return
		}
	}
}

func forwarded() []os.Signal {
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH,
	}
}

// statusOf is the command's exit status, as in shells.
func statusOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(exit.ExitCode())
}
