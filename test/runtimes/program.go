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

// programs are those of ours that the tests run.
type programs struct {
	cri  string // the client of ./cri
	peer string // ./peer, static, for containers
}

// buildPrograms builds them once for each test program.
var buildPrograms = sync.OnceValues(func() (programs, error) {
	const module = "github.com/trestle-cni/trestle/test/runtimes"
	dir := programDir()
	p := programs{cri: filepath.Join(dir, "cri"), peer: filepath.Join(dir, "peer")}
	here, err := goCommand("list", "-f", "{{.Dir}}", module)
	if err != nil {
		return p, err
	}
	// The client is a module of its own, which is built from its directory.
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w"}
	client := append([]string{"build", "-C", filepath.Join(here, "cri"), "-o", p.cri}, flags...)
	if _, err := goCommand(append(client, ".")...); err != nil {
		return p, err
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
