package host

import (
	"fmt"
	"os"
	"runtime"
)

// mainCalled says that this program can serve as a Host's first process.
var mainCalled bool

// Main is for TestMain: it runs the tests and returns the exit status. In the
// first process of a Host, which is this same program, it serves as that.
func Main(m interface{ Run() int }) int {
	if os.Args[0] == initName {
		return runInit()
	}
	mainCalled = true
	defer removeBuilt()
	return m.Run()
}

// Program is Main for programs that use the harness: it runs body with a T that
// writes to standard error, and returns 1 when body failed.
func Program(body func(T)) int {
	return Main(program(body))
}

type program func(T)

func (body program) Run() int {
	t := &programT{}
	done := make(chan struct{})
	go func() {
		defer close(done) // also when Fatalf ends the goroutine
		defer t.cleanUp()
		body(t)
	}()
	<-done
	if t.failed {
		return 1
	}
	return 0
}

type programT struct {
	failed   bool
	cleanups []func()
}

func (t *programT) Helper()                   {}
func (t *programT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *programT) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *programT) Errorf(f string, a ...any) { t.failed = true; t.Logf(f, a...) }
func (t *programT) Fatalf(f string, a ...any) { t.Errorf(f, a...); runtime.Goexit() }

func (t *programT) TempDir() string {
	dir, err := os.MkdirTemp("", "trestle")
	if err != nil {
		t.Fatalf("make a temporary directory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // nothing depends on it any more
	return dir
}

func (t *programT) cleanUp() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}
