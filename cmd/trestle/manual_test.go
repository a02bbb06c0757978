package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/manual"
)

// docsDir is the repository's.
const docsDir = "../../docs"

// TestManual: docs/cli.md and the man pages are those that the commands generate. Those of
// trestle-node are its own test's.
func TestManual(t *testing.T) {
	t.Setenv("CNI_PATH", "") // so that the defaults do not depend on who runs this
	t.Setenv("NETCONFPATH", "")
	root := newRootCommand()
	root.DisableAutoGenTag = true
	root.InitDefaultCompletionCmd()
	const head = "# trestle, command by command\n\nMade by `make docs` from what the commands say of themselves (`trestle COMMAND --help`); man pages are in `docs/man`. " +
		"The commands of `trestle node` and `trestle cluster` have [a page of their own](trestle-node.md).\n\n"
	ours := manual.All(root)
	manual.Compare(t, filepath.Join(docsDir, "cli.md"), withNode(t, manual.Page(t, head, ours)))
	manual.ComparePages(t, filepath.Join(docsDir, "man"), ours, func(dashed string) bool { return !manual.OfNode(dashed) })
}

// withNode puts into the page's list of commands those of trestle-node, as the list of its own page
// has them: that is made before this one.
func withNode(t *testing.T, page []byte) []byte {
	t.Helper()
	node, err := os.ReadFile(filepath.Join(docsDir, "trestle-node.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"node", "cluster"} {
		lines := regexp.MustCompile(`(?m)^- \[trestle `+group+` .*\n`).FindAll(node, -1)
		if len(lines) < 5 {
			t.Errorf("trestle-node.md lists %d commands of trestle %s, want all", len(lines), group)
		}
		there := bytes.ReplaceAll(bytes.Join(lines, nil), []byte("](#"), []byte("](trestle-node.md#"))
		own := regexp.MustCompile(`(?m)^- \[trestle ` + group + `\].*\n`).Find(page)
		page = bytes.Replace(page, own, slices.Concat(own, there), 1)
	}
	return page
}

// TestCommandsAreDescribed: each command has a description and checks its arguments, and each
// flag has a description.
func TestCommandsAreDescribed(t *testing.T) {
	var names []string
	for _, command := range manual.All(newRootCommand()) {
		if command.Short == "" || strings.HasSuffix(command.Short, ".") {
			t.Errorf("%s: got %q, want a word on it, without a full stop", command.CommandPath(), command.Short)
		}
		for line := range strings.Lines(command.Long + "\n" + command.Example) {
			if len([]rune(strings.TrimRight(line, "\n"))) > 88 {
				t.Errorf("%s: a line of more than 88 columns: %q", command.CommandPath(), line)
			}
		}
		if slices.Contains(names, command.CommandPath()) {
			t.Errorf("%s is there twice", command.CommandPath())
		}
		names = append(names, command.CommandPath())
	}
}

// TestHelpIsNarrow: help fits into 80 columns, except for examples.
func TestHelpIsNarrow(t *testing.T) {
	t.Setenv("CNI_PATH", "")
	t.Setenv("NETCONFPATH", "")
	for _, command := range manual.All(newRootCommand()) {
		var out bytes.Buffer
		command.SetOut(&out)
		if err := command.Help(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "--plugins strings ") {
			t.Errorf("%s: got %q, want its flags", command.CommandPath(), out.String())
		}
		for line := range strings.Lines(out.String()) {
			if len([]rune(strings.TrimRight(line, "\n"))) > 80 && !strings.HasPrefix(line, "  trestle ") {
				t.Errorf("%s: a line of more than 80 columns: %q", command.CommandPath(), line)
			}
		}
	}
}
