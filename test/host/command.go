package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// inVM is for a virtual machine without KVM, which takes twenty times as long for
// everything (make test-vm).
var inVM = os.Getenv("TRESTLE_VM") != ""

// patience bounds every command, so that a hang is a failure with a name. A batch of a
// thousand links takes more than a minute where others have the kernel's lock all the time.
var patience = map[bool]time.Duration{false: 3 * time.Minute, true: 10 * time.Minute}[inVM]

// Output is what a command said and how it ended.
type Output struct {
	Stdout, Stderr string
	Code           int // 128 and the signal's number where a signal ended it
}

// Command is a command to run in a Namespace.
type Command struct {
	Args  []string // Args[0] is looked up in PATH
	Env   []string // besides the test's own environment
	Stdin string
}

// Run runs the command to its end. The error is for a command that could not be
// started or took more than three minutes; one that failed has a Code.
func (n *Namespace) Run(c Command) (Output, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	err := n.Do(func() error {
		cmd := c.prepare(ctx)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		return cmd.Run()
	})
	output := Output{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return output, fmt.Errorf("%s in %s: not done after %v; it said %s%s", strings.Join(c.Args, " "), n.Name, patience, output.Stdout, output.Stderr)
	case errors.As(err, &exit):
		output.Code = exitCode(exit)
	case err != nil:
		return output, fmt.Errorf("%s in %s: %w", strings.Join(c.Args, " "), n.Name, err)
	}
	return output, nil
}

func (c Command) prepare(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.Stdin = strings.NewReader(c.Stdin)
	cmd.WaitDelay = 10 * time.Second // for pipes that a child of the command still holds
	return cmd
}

func exitCode(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// MustRun runs a command that must succeed and returns its standard output.
func (n *Namespace) MustRun(args ...string) string {
	n.t.Helper()
	output, err := n.Run(Command{Args: args})
	if err != nil {
		n.t.Fatalf("%v", err)
	}
	if output.Code != 0 {
		n.t.Fatalf("%s in %s: exit status %d: %s%s", strings.Join(args, " "), n.Name, output.Code, output.Stdout, output.Stderr)
	}
	return output.Stdout
}

// Start starts a command that runs beside the test. It is killed when the test
// ends, or by stop, which also returns what it wrote.
func (n *Namespace) Start(c Command) (stop func() string) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var output bytes.Buffer
	var cmd *exec.Cmd
	err := n.Do(func() error {
		cmd = c.prepare(ctx)
		cmd.Stdout, cmd.Stderr = &output, &output
		return cmd.Start()
	})
	if err != nil {
		cancel()
		n.t.Fatalf("start %s in %s: %v", strings.Join(c.Args, " "), n.Name, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed as a rule
	}()
	stop = func() string {
		cancel()
		<-done
		return output.String()
	}
	n.t.Cleanup(func() { stop() })
	return stop
}
