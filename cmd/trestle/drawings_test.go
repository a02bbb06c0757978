package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReplaceFile: a reader of the former file keeps its content; a link stays a link; and no
// temporary file is left, whether it succeeded or failed.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "a.svg"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	former, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close()
	if err := replaceFile(file, "after"); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	if n, err := former.Read(buffer); err != nil || string(buffer[:n]) != "before" {
		t.Errorf("the reader of the former file got %q, %v", buffer[:n], err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(link, "by the link"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "by the link" {
		t.Errorf("got %q, %v", got, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is none any more: %v, %v", info, err)
	}
	if err := replaceFile(filepath.Join(dir, "none", "a.svg"), "x"); err == nil {
		t.Error("a file in no directory was written")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v, want the file and the link", entries, err)
	}
}
