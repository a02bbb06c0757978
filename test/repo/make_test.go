package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestUninstall: what make install put there goes, of whatever version it is.
// What another suite has put over it since, and what it left beside it, stays.
func TestUninstall(t *testing.T) {
	t.Parallel()
	dirs := host.New(t).Dirs()
	root := t.TempDir()
	dir := filepath.Join(root, "opt/cni/bin")
	arguments := []string{"DESTDIR=" + root, "TRESTLE_BIN=" + dirs.Trestle}
	mustMake(t, nil, append([]string{"-C", "../..", "-o", "build", "install"}, arguments...)...)
	for _, name := range []string{"bridge", "macvlan"} { // the reference's, as its own installers put it: by a rename
		run(t, "cp", filepath.Join(dirs.Reference, "bridge"), filepath.Join(dir, ".new"))
		run(t, "mv", filepath.Join(dir, ".new"), filepath.Join(dir, name))
	}

	for range 2 { // the second time there is nothing left to do
		output := mustMake(t, nil, append([]string{"-C", "../..", "uninstall"}, arguments...)...)
		if want := "kept " + dir + "/bridge: not Trestle's"; !strings.Contains(output, want) {
			t.Errorf("got %q, want %q in it", output, want)
		}
		if got, want := list(t, dir), []string{"bridge", "macvlan"}; !slices.Equal(got, want) {
			t.Errorf("got files %v, want %v", got, want)
		}
	}
	if got := list(t, filepath.Join(root, "usr/local/bin")); len(got) > 0 {
		t.Errorf("got files %v, want trestle for people gone", got)
	}
	if got := list(t, filepath.Join(root, "usr/local/share/man/man8")); len(got) > 0 {
		t.Errorf("got man pages %v, want them gone", got)
	}
}

// TestMakeWithoutGo: where PATH has no go, as under sudo, make says what to do;
// what is built already is installed all the same.
func TestMakeWithoutGo(t *testing.T) {
	t.Parallel()
	dirs, root := host.New(t).Dirs(), t.TempDir()
	path := []string{"PATH=" + withoutGo(t)}
	for _, target := range []string{"build", "install", "peers", "demo", "lint"} {
		output, err := runMake(path, "-C", "../..", "-o", "deps", target, "DESTDIR="+root)
		if want := "go is not in PATH. Under sudo: sudo env"; err == nil || !strings.Contains(output, want) {
			t.Errorf("make %s: got %v, %q, want %q in it", target, err, output, want)
		}
	}
	mustMake(t, path, "-C", "../..", "-o", "build", "install", "DESTDIR="+root, "TRESTLE_BIN="+dirs.Trestle)
}

// TestMakeWithAnOldGo: Debian 12's own go cannot read go.mod, and says so in a
// way that helps nobody.
func TestMakeWithAnOldGo(t *testing.T) {
	t.Parallel()
	dir := withoutGo(t)
	script := "#!/bin/sh\n[ \"$1\" = version ] || { echo 'go: errors parsing go.mod' >&2; exit 1; }\necho 'go version go1.19.8 linux/amd64'\n"
	run(t, "sh", "-ec", `printf %s "$0" >"$1"; chmod 755 "$1"`, script, filepath.Join(dir, "go")) // as host.WriteProgram does
	output, err := runMake([]string{"PATH=" + dir}, "-C", "../..", "build")
	if want := "go version go1.19.8 linux/amd64: this needs Go 1.25 or newer"; err == nil || !strings.Contains(output, want) {
		t.Errorf("got %v, %q, want %q in it", err, output, want)
	}
}

// TestMakeBelowASpace: a checkout may stand below a directory with a space in
// its name.
func TestMakeBelowASpace(t *testing.T) {
	t.Parallel()
	checkout := filepath.Join(t.TempDir(), "my code", "trestle")
	if err := os.MkdirAll(checkout, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range list(t, "../..") {
		if !strings.HasPrefix(name, ".") && name != "bin" {
			run(t, "cp", "-a", filepath.Join("../..", name), checkout)
		}
	}
	output := mustMake(t, nil, "-C", checkout, "-o", "deps", "demo")
	if want := "links, addresses, routes, rules, settings and files of the host are as they were"; !strings.Contains(output, want) {
		t.Errorf("got %q, want %q in it", output, want)
	}
	for _, file := range []string{"bin/bridge", "bin/trestle", ".cache/peers/cnitool"} {
		stat(t, filepath.Join(checkout, file))
	}
}

// withoutGo is a directory for PATH with links to all programs but go.
func withoutGo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin"} {
		for _, name := range list(t, from) {
			if to := filepath.Join(dir, name); name != "go" {
				_ = os.Symlink(filepath.Join(from, name), to) // the first of a name counts, as in PATH
			}
		}
	}
	return dir
}

// runMake runs make as somebody at a shell does: what the make that runs the
// tests has set is not there.
func runMake(env []string, args ...string) (string, error) {
	cmd := exec.Command("make", args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "MAKE") || strings.HasPrefix(variable, "TRESTLE_")
	})
	cmd.Env = append(cmd.Env, env...)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

func mustMake(t *testing.T, env []string, args ...string) string {
	t.Helper()
	output, err := runMake(env, args...)
	if err != nil {
		t.Fatalf("make %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return output
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if output, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, output)
	}
}
