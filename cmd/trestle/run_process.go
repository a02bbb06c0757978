package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/term"

	"github.com/trestle-cni/trestle/cmd/trestle/container"
)

// process is the command of trestle run.
type process struct {
	netns, resolvConf string   // see container.Enter
	networks          []string // to attach to before
	program           string   // its path
	args              []string
}

// enterCommand is what trestle calls itself with, in a process of its own that then becomes
// the command. It is no command of the tree: until it is another program, a signal is to
// end it as it would end that one.
const enterCommand = "__enter"

// enter becomes the command; it returns what to exit with if it cannot.
func enter(args []string) int {
	const netns, resolvConf, program, command = 0, 1, 2, 3
	if len(args) <= command {
		return exitInput
	}
	err := container.Enter(args[netns], args[resolvConf], args[program], args[command:])
	os.Stderr.WriteString("trestle: " + err.Error() + "\n")
	const notExecutable = 126 // as shells have it
	return notExecutable
}

// run starts the command, hands signals on (those that listen has got before, too), and
// gives its exit status as an error. The command is killed if trestle is: the kernel does
// that when the thread ends that started it, so this one stays.
func (c process) run(signals chan os.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{enterCommand, c.netns, c.resolvConf, c.program}, c.args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go handOn(cmd.Process, signals, done)
	err = cmd.Wait()
	close(done)
	return statusOf(err)
}

// listen keeps the signals that come from here on for the command.
func listen() chan os.Signal {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, handedOn()...)
	return signals
}

func handOn(child *os.Process, signals <-chan os.Signal, done <-chan struct{}) {
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	for {
		select {
		case s := <-signals:
			if terminal && (s == syscall.SIGINT || s == syscall.SIGQUIT) {
				continue // the terminal itself sends these to both of us
			}
			_ = child.Signal(s) // it may have ended just now
		case <-done:
			return
		}
	}
}

func handedOn() []os.Signal {
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH,
	}
}

// statusOf is the command's exit status, as a shell has it.
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
