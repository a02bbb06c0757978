package picture

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTree: the trees of hosts of different sizes fit the terminal.
func TestTree(t *testing.T) {
	for name, snapshot := range samples() {
		got := NewTopology(snapshot).Tree(TreeOptions{Width: 80})
		golden(t, "tree-"+name+".txt", got)
		lines := strings.Split(got, "\n")
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > 80 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
		if len(lines) > 100 {
			t.Errorf("%s: got %d lines, want no more than a person reads", name, len(lines))
		}
	}
}
