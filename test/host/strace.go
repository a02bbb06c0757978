package host

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Strace says how a command is watched by strace(1), with all its threads and
// children.
type Strace struct {
	// Syscalls are those to watch ("%network", "openat,unlinkat"); all where empty.
	Syscalls string
	// Inject tampers with system calls: "sendmsg:error=ENOBUFS:when=2" or
	// "unlinkat:signal=KILL". strace counts `when` for each thread by itself.
	Inject []string
	// Stopped is called when the command has stopped by an injected SIGSTOP, and goes on
	// afterwards; nil where none is injected.
	Stopped func()
}

// Trace is what strace saw.
type Trace struct {
	// Execs are the programs that were run, in order; the command itself is the first.
	Execs []string
	// Calls counts the system calls by name, but for those that chance adds: see isChance.
	Calls map[string]int
	// Injected counts those that were tampered with. Where a test goes through
	// all steps (when=1, 2, …), 0 says that there are no more.
	Injected int
	// Text is all of it.
	Text string
}

// Trace runs the command under strace.
func (n *Namespace) Trace(s Strace, c Command) (Output, Trace, error) {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "strace")
	args := []string{"strace", "-f", "-qq", "-o", file, "-s", "256"}
	if s.Syscalls != "" {
		args = append(args, "-e", "trace=execve,"+s.Syscalls)
	}
	for _, inject := range s.Inject {
		args = append(args, "-e", "inject="+inject)
	}
	c.Args = append(append(args, "--"), c.Args...)
	if s.Stopped != nil {
		defer n.watch(s, file)()
	}
	output, err := n.Run(c)
	if err != nil {
		return output, Trace{}, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return output, Trace{}, fmt.Errorf("strace wrote nothing (it said %q): %w", output.Stderr, err)
	}
	return output, parseTrace(string(text)), nil
}

// SaysWhatIsLeft says whether a command failed by more than one injected error, the last of
// them in its undo, and tells of that. strace counts for each thread by itself, and Go goes
// on with another one when it likes: so now and then each of two threads has one. The DEL
// that follows has the rest, as after a kill.
func SaysWhatIsLeft(injected int, err error) bool {
	return injected > 1 && strings.Contains(err.Error(), "undo: ")
}

// watch lets the command go on each time that it is seen in what strace writes that a
// thread has stopped, and calls Stopped before the first time.
func (n *Namespace) watch(s Strace, file string) (end func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		seen := 0
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			text, _ := os.ReadFile(file) // strace may not have made it yet
			stops := stopLine.FindAllSubmatch(text, -1)
			if len(stops) > 0 && seen == 0 {
				s.Stopped()
			}
			for _, stop := range stops[seen:] {
				// its number is that of the namespace's processes, and it may have ended, as whole processes do by another thread
				_, _ = n.Run(Command{Args: []string{"kill", "-CONT", string(stop[1])}})
			}
			seen = len(stops)
		}
	}()
	return func() { close(done); <-ended }
}

// The lines are "PID name(arguments) = result"; a call that another thread
// interrupts goes on in a line "PID <... name resumed>".
var (
	callLine = regexp.MustCompile(`^\d+ +(\w+)\(`)

	resumedLine     = regexp.MustCompile(`^\d+ +<\.\.\. (\w+) resumed>`)
	interruptedLine = regexp.MustCompile(` = (\? ERESTART\w*|-1 EINTR) \(`)
	// of an eventfd; a call that wrote is recognised at its beginning, one that read at its end
	wakeUp   = regexp.MustCompile(`^\d+ +(write\(\d+, |read\(\d+, |<\.\.\. read resumed>)"(\\1(\\0){7}|(\\0){7}\\1)", `)
	stopLine = regexp.MustCompile(`(?m)^(\d+) +--- stopped by SIGSTOP ---$`)
	execLine = regexp.MustCompile(`^\d+ +execve\("([^"]+)"`)
)

// isChance says whether a call depends on how the threads meet: a signal interrupts one, which
// is made again, or the Go runtime wakes a thread that waits for files.
func isChance(line string) bool {
	return wakeUp.MatchString(line) || interruptedLine.MatchString(line) && !strings.HasSuffix(line, "(INJECTED)")
}

func parseTrace(text string) Trace {
	trace := Trace{Calls: map[string]int{}, Text: text}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() {
		line := lines.Text()
		switch call, resumed := callLine.FindStringSubmatch(line), resumedLine.FindStringSubmatch(line); {
		case call != nil && !isChance(line):
			trace.Calls[call[1]]++
		case resumed != nil && isChance(line): // it was counted when it began
			if trace.Calls[resumed[1]]--; trace.Calls[resumed[1]] == 0 {
				delete(trace.Calls, resumed[1])
			}
		}
		// One that failed is a name that PATH's search tried.
		if exec := execLine.FindStringSubmatch(line); exec != nil && !strings.Contains(line, " = -1 E") {
			trace.Execs = append(trace.Execs, exec[1])
		}
		if strings.HasSuffix(line, "(INJECTED)") || strings.Contains(line, " killed by SIGKILL") || strings.Contains(line, " stopped by SIGSTOP") {
			trace.Injected++
		}
	}
	return trace
}
