package runtimes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/trestle-cni/trestle/test/host"
)

// Main is host.Main for tests that make Machines.
func Main(m interface{ Run() int }) int { return host.Main(cleaned{m}) }

// cleaned removes, after the tests, the programs that were built for them.
type cleaned struct{ tests interface{ Run() int } }

func (c cleaned) Run() int {
	defer removePrograms()
	return c.tests.Run()
}

// Program is host.Program for programs that make Machines.
func Program(body func(host.T)) int {
	return host.Program(func(t host.T) {
		t.Cleanup(removePrograms)
		body(t)
	})
}

func removePrograms() { _ = os.RemoveAll(programDir()) } // a leftover in /tmp fails no test

func programDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprint("trestle-runtimes-", os.Getpid()))
}

// Need skips a test of programs that cannot be had. Each is in a package of
// Debian of the same name, which the Makefile installs where there is apt-get.
func Need(t interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}, programs ...string,
) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if _, err := exec.LookPath("apt-get"); err != nil {
			t.Skipf("%s is not installed, and there is no apt-get to install it", program)
		}
		t.Fatalf("%s is not installed: apt-get install --no-install-recommends %s", program, program)
	}
}

// programs are those of ours that the tests run.
type programs struct {
	cri  string // the client of ./cri
	crio string // CRI-O's calls, of ./crio
	peer string // ./peer, static, for containers
}

// buildPrograms builds them once for each test program.
var buildPrograms = sync.OnceValues(func() (programs, error) {
	const module = "github.com/trestle-cni/trestle/test/runtimes"
	dir := programDir()
	p := programs{cri: filepath.Join(dir, "cri"), crio: filepath.Join(dir, "crio"), peer: filepath.Join(dir, "peer")}
	here, err := goCommand("list", "-f", "{{.Dir}}", module)
	if err != nil {
		return p, err
	}
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w"}
	for _, client := range []string{p.cri, p.crio} { // each a module of its own, which is built from its directory
		args := append([]string{"build", "-C", filepath.Join(here, filepath.Base(client)), "-o", client}, flags...)
		if _, err := goCommand(append(args, ".")...); err != nil {
			return p, err
		}
	}
	_, err = goCommand(append(append([]string{"build", "-o", p.peer}, flags...), module+"/peer")...)
	return p, err
})

func goCommand(args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
