package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"

	"github.com/trestle-cni/trestle/test/golden"
	"github.com/trestle-cni/trestle/test/manual"
)

// docsDir is the repository's.
const docsDir = "../../docs"

// TestManual: docs/cli.md and the man pages are those that the commands generate.
func TestManual(t *testing.T) {
	t.Setenv("CNI_PATH", "") // so that the defaults do not depend on who runs this
	t.Setenv("NETCONFPATH", "")
	root := newRootCommand()
	root.DisableAutoGenTag = true
	root.InitDefaultCompletionCmd()
	const head = "# trestle, command by command\n\nMade by `make docs` from what the commands say of themselves (`trestle COMMAND --help`); man pages are in `docs/man`. " +
		"The commands of `trestle node` and `trestle cluster` have [a page of their own](trestle-node.md).\n\n"
	files := map[string][]byte{"cli.md": manual.Page(t, head, manual.All(root))}
	for _, command := range manual.All(root) {
		var man bytes.Buffer
		day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) // so that the pages do not depend on the date
		header := &doc.GenManHeader{Title: strings.ToUpper(manual.Dashed(command)), Section: "8", Date: &day, Source: "Trestle", Manual: "Trestle"}
		if err := doc.GenMan(command, header, &man); err != nil {
			t.Fatal(err)
		}
		files[filepath.Join("man", manual.Dashed(command)+".8")] = man.Bytes()
	}
	there, err := filepath.Glob(filepath.Join(docsDir, "man", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		name := filepath.Join("man", filepath.Base(path))
		if files[name] != nil {
			continue
		}
		if !*golden.Update {
			t.Errorf("%s is of no command; make docs removes it", path)
		} else if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	for name, want := range files {
		manual.Compare(t, filepath.Join(docsDir, name), want)
	}
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
