package test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestReadmeFindsItsFiles: what the table "Where is …?" names is there.
func TestReadmeFindsItsFiles(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile("`((?:pkg|plugins|cmd|conflist|docs|test)/[^` ]*)`").FindAllSubmatch(readme, -1)
	if len(paths) < 10 {
		t.Errorf("got %d paths in README.md, want its table", len(paths))
	}
	for _, path := range paths {
		if _, err := os.Stat(filepath.Join("..", string(path[1]))); err != nil {
			t.Errorf("README.md: %v", err)
		}
	}
}
