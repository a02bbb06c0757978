package cni

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// Catch calls fn and turns a panic into an error that names its place. A recover
// works in its own goroutine only, so whatever runs in another one (every
// function given to ns.NetNS.Do does) needs a Catch there.
func Catch(fn func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = panicError(cause)
		}
	}()
	return fn()
}

// EachCaught calls all of the steps, whatever becomes of the others, and joins
// their errors: it is for clean-up, where no failure, not even a panic, may keep
// back what comes next.
func EachCaught(steps ...func() error) error {
	var failed error
	for _, step := range steps {
		failed = errors.Join(failed, Catch(step))
	}
	return failed
}

// panicError is called where a panic was recovered from, while its frames are
// still on the stack.
func panicError(cause any) error {
	return coded(CodeFailed, "internal error at %s: %v; please report it, with the network's configuration", []any{placeOfPanic(), cause})
}

// placeOfPanic is "pkg/nat/ports.go:98": the innermost frame below the panic that
// is not the runtime's.
func placeOfPanic() string {
	const skipOurselves = 3 // runtime.Callers, placeOfPanic, panicError
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(skipOurselves, pcs)])
	panicking := false
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic":
			panicking = true
		case panicking && !strings.HasPrefix(frame.Function, "runtime."):
			return fmt.Sprintf("%s:%d", shortPath(frame.File), frame.Line)
		case !more:
			return "an unknown place"
		}
	}
}

// shortPath is the file and the two directories above it: enough to find it, and
// the same wherever it was built.
func shortPath(path string) string {
	parts := strings.Split(filepath.ToSlash(path), "/")
	return strings.Join(parts[max(0, len(parts)-3):], "/")
}
