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

// TestInstallOverRunningPlugins: each name gets a new file while the old one is
// executed, all are links of one, and nothing else is left in the directory.
func TestInstallOverRunningPlugins(t *testing.T) {
	built := host.New(t).Dirs().Trestle
	root := t.TempDir()
	dir := filepath.Join(root, "opt/cni/bin")
	install := func() {
		t.Helper()
		// -o build: what is under test is installed, not rebuilt
		cmd := exec.Command("make", "-C", "../..", "-o", "build", "install", "DESTDIR="+root, "TRESTLE_BIN="+built)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make install: %v\n%s", err, out)
		}
	}
	install()
	before := stat(t, filepath.Join(dir, "loopback"))
	running := exec.Command(filepath.Join(dir, "loopback"))
	running.Env = []string{"CNI_COMMAND=VERSION"}
	stdin, err := running.StdinPipe() // which it reads until we close it
	if err != nil {
		t.Fatal(err)
	}
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	install()
	after := stat(t, filepath.Join(dir, "loopback"))
	if os.SameFile(before, after) {
		t.Errorf("the file that was running is still in place, want a new one")
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := running.Wait(); err != nil {
		t.Errorf("the plugin that ran meanwhile: %v", err)
	}
	for _, name := range list(t, dir) {
		if !os.SameFile(after, stat(t, filepath.Join(dir, name))) {
			t.Errorf("%s is not a link of loopback", name)
		}
	}
	for _, file := range []string{"bin/trestle", "bin/trestle-node", "lib/systemd/system/trestle-node.service"} {
		if _, err := os.Stat(filepath.Join(root, "usr/local", file)); err != nil {
			t.Errorf("not installed: %v", err)
		}
	}
	pages := list(t, filepath.Join(root, "usr/local/share/man/man8"))
	for _, page := range append(list(t, "../../docs/man"), "trestle.8", "trestle-run.8", "trestle-node.8", "trestle-node-join.8", "trestle-cluster-config-set.8") {
		if !slices.Contains(pages, page) {
			t.Errorf("got man pages %v, want %s among them: one for each command", pages, page)
		}
	}
	plugins := slices.DeleteFunc(list(t, built), func(name string) bool { return strings.HasPrefix(name, "trestle") })
	if got, want := list(t, dir), plugins; !slices.Equal(got, want) {
		t.Errorf("got files %v, want %v", got, want)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
