package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestListsNameTests: each name in the lists of tests is one of a test, or of several.
func TestListsNameTests(t *testing.T) {
	var tests strings.Builder
	for _, dir := range []string{"../../../pkg", "../../../test"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			tests.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"../left-out", "../elsewhere"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			names, why, ok := strings.Cut(line, "\t")
			if strings.HasPrefix(line, "#") {
				continue
			}
			if !ok || strings.TrimSpace(why) == "" {
				t.Errorf("%s: %q says no reason after a tab", file, line)
			}
			for name := range strings.SplitSeq(names, "|") {
				if !regexp.MustCompile(`(?m)^func Test` + name + `\(`).MatchString(tests.String()) {
					t.Errorf("%s: no test is called Test%s", file, name)
				}
			}
		}
	}
}
