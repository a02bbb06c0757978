package cni

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// Catch calls fn and turns a panic into an error that names its place. recover works only
// in the goroutine that panics, so a function that runs in another one needs a Catch there.
func Catch(fn func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = panicError(cause)
		}
	}()
	return fn()
}

// EachCaught calls each step even if others fail or panic, and joins their errors. It is
// for clean-up.
func EachCaught(steps ...func() error) error {
	var failed error
	for _, step := range steps {
		failed = errors.Join(failed, Catch(step))
	}
	return failed
}

// panicError makes the error of a recovered panic. It must be called by the deferred
// function, while the frames of the panic are still on the stack.
func panicError(cause any) error {
	return coded(CodeFailed, "internal error at %s: %v; please report it, with the network's configuration", []any{placeOfPanic(), cause})
}

// placeOfPanic is where the panic happened, "pkg/nat/add.go:98": the innermost frame that is
// not the Go runtime's.
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
