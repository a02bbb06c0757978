package validate

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/trestle-cni/trestle/conflist"
)

// FuzzFiles: in any two files each mistake is in a line that exists.
func FuzzFiles(f *testing.F) {
	lists, err := conflist.Files.ReadDir(".")
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range lists {
		data, err := conflist.Files.ReadFile(l.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(plugin(hostLocal)))
	f.Add([]byte("{\"plugins\": [null, {\"type\": 7, \"ipam\": []}],\n\"plugins\": {}}"))
	rules := usual()
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		names := []string{filepath.Join(dir, "a.conflist"), filepath.Join(dir, "b.conf")}
		for _, name := range names {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		found, err := rules.Files(names)
		if err != nil {
			t.Fatal(err)
		}
		lines := 1
		for _, b := range data {
			if b == '\n' {
				lines++
			}
		}
		for _, p := range found {
			if p.Line < 1 || p.Line > lines || p.Column < 1 || p.Text == "" {
				t.Errorf("got %+v, in a file of %d lines", p, lines)
			}
		}
	})
}
