package network

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// TestReadFileAsLibcni: a list is read as runtimes read it, plugins in files of their own
// included.
func TestReadFileAsLibcni(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("n/10-portmap.conf", `{"type": "portmap"}`)
	write("n/20-firewall.conf", `{"type": "firewall"}`)
	write("n/ignored.json", `{"type": "tuning"}`)
	write("broken/10.conf", `{`)
	for name, content := range map[string]string{
		"both.conflist":    `{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge"}]}`,
		"files.conflist":   `{"cniVersion": "1.1.0", "name": "n"}`,
		"inlined.conflist": `{"cniVersion": "1.1.0", "name": "n", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "bridge"}]}`,
		"alone.conflist":   `{"cniVersion": "1.1.0", "name": "alone", "plugins": [{"type": "bridge"}]}`,
		"none.conflist":    `{"cniVersion": "1.1.0", "name": "none"}`,
		"broken.conflist":  `{"cniVersion": "1.1.0", "name": "broken", "plugins": [{"type": "bridge"}]}`,
		"garbage.conflist": `{`,
	} {
		path := write(name, content)
		got, err := ReadFile(path)
		want, wantErr := libcni.NetworkConfFromFile(path)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: got %v, libcni says %v", name, err, wantErr)
			continue
		}
		if err == nil && !cmp.Equal(got.NetworkConfigList, want) {
			t.Errorf("%s: -libcni's +ours\n%s", name, cmp.Diff(want, got.NetworkConfigList))
		}
	}
}

// TestReadIsNoFIFO: what is no file among lists is named, and the others are read.
func TestReadIsNoFIFO(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := filepath.Join(dir, "20.conflist")
	err := errors.Join(
		unix.Mkfifo(filepath.Join(dir, "10.conflist"), 0o600),
		os.Symlink("/dev/zero", filepath.Join(dir, "11.conf")),
		os.WriteFile(list, []byte(`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge"}]}`), 0o644),
		os.WriteFile(filepath.Join(dir, "30.conflist"), []byte(`{"cniVersion": "1.1.0", "name": "fifo", "plugins": [{"type": "bridge"}]}`), 0o644),
		os.Mkdir(filepath.Join(dir, "fifo"), 0o755),
		unix.Mkfifo(filepath.Join(dir, "fifo/10.conf"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		lists []List
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		lists, err := Read([]string{dir})
		done <- answer{lists, err}
	}()
	select {
	case got := <-done:
		if !errors.Is(got.err, rawfile.ErrUnfit) || len(got.lists) != 1 || got.lists[0].File != list {
			t.Errorf("got %v, %v, want %s alone, and the others named", got.lists, got.err, list)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits")
	}
}

func TestUnknown(t *testing.T) {
	many := []string{"l", "k", "j", "i", "h", "g", "f", "e", "d", "c", "b", "a"}
	for want, all := range map[string][]string{
		"there is none; make one with trestle network create x":                                 nil,
		"there is no network with that name; there are lab, web":                                {"web", "lab", "web"},
		"there is no network with that name; there are a, b, c, d, e, f, g, h, i, j and 2 more": many,
	} {
		if err := Unknown("x", all); cni.CodeOf(err) != cni.CodeConfig || err.Error() != `network "x": `+want {
			t.Errorf("%v: got %v, want %q", all, err, want)
		}
	}
}
