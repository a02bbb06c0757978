package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "rewrite docs/cli.md and the man pages")

// docsDir is the repository's.
const docsDir = "../../docs"

// TestManual holds docs/cli.md and the man pages to what the commands say of themselves.
func TestManual(t *testing.T) {
	t.Setenv("CNI_PATH", "") // defaults are the usual ones, whoever runs this
	t.Setenv("NETCONFPATH", "")
	root := newRootCommand()
	root.DisableAutoGenTag = true
	root.InitDefaultCompletionCmd()
	files := map[string][]byte{"cli.md": page(t, root)}
	for _, command := range all(root) {
		var man bytes.Buffer
		day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) // the same whenever it is made
		header := &doc.GenManHeader{Title: strings.ToUpper(dashed(command)), Section: "8", Date: &day, Source: "Trestle", Manual: "Trestle"}
		if err := doc.GenMan(command, header, &man); err != nil {
			t.Fatal(err)
		}
		files[filepath.Join("man", dashed(command)+".8")] = man.Bytes()
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
		if !*update {
			t.Errorf("%s is of no command; make docs removes it", path)
		} else if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	for name, want := range files {
		path := filepath.Join(docsDir, name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v; make docs writes it", err)
		}
		if diff := cmp.Diff(string(have), string(want)); diff != "" {
			t.Errorf("docs/%s is not current; make docs rewrites it (-have +want):\n%s", name, diff)
		}
	}
}

// all is a command and those below it, but for hidden ones and cobra's own.
func all(command *cobra.Command) []*cobra.Command {
	commands := []*cobra.Command{command}
	if command.Name() == "completion" {
		return commands // the shells' have nothing to add
	}
	for _, child := range command.Commands() {
		if child.IsAvailableCommand() && child.Name() != "help" {
			commands = append(commands, all(child)...)
		}
	}
	return commands
}

func dashed(command *cobra.Command) string {
	return strings.ReplaceAll(command.CommandPath(), " ", "-")
}

// page is docs/cli.md: what cobra says of each command, without what is the same for all.
func page(t *testing.T, root *cobra.Command) []byte {
	var out bytes.Buffer
	out.WriteString("# trestle, command by command\n\nMade by `make docs` from what the commands say of themselves (`trestle COMMAND --help`); man pages are in `docs/man`.\n\n")
	for _, command := range all(root) {
		out.WriteString("- [" + command.CommandPath() + "](#" + dashed(command) + "): " + command.Short + "\n")
	}
	indented := regexp.MustCompile(`(?m)(?:^    .*\n)+`)
	inherited := regexp.MustCompile(`(?s)### Options inherited from parent commands.*?\n\n(?:###|$)`)
	for _, command := range all(root) {
		var one bytes.Buffer
		if err := doc.GenMarkdown(command, &one); err != nil {
			t.Fatal(err)
		}
		text, _, _ := strings.Cut(one.String(), "### SEE ALSO")
		text = inherited.ReplaceAllString(text, "")
		fenced := indented.ReplaceAllString(command.Long+"\n", "```\n$0```\n")
		text = strings.Replace(text, command.Long, strings.TrimSpace(fenced), 1)
		for _, heading := range []string{"Synopsis", "Options"} {
			text = strings.ReplaceAll(text, "### "+heading+"\n\n", "")
		}
		text = strings.ReplaceAll(text, "### Examples\n\n", "For example\n\n")
		if command.Long == "" {
			text = strings.Replace(text, command.Short+"\n\n", command.Short+".\n\n", 1)
		} else {
			text = strings.Replace(text, command.Short+"\n\n", "", 1)
		}
		out.WriteString("\n" + strings.TrimSpace(text) + "\n")
	}
	return out.Bytes()
}

// TestCommandsSayWhatTheyAre: each has a word for the list and for its arguments, and each
// flag says what it does.
func TestCommandsSayWhatTheyAre(t *testing.T) {
	var names []string
	for _, command := range all(newRootCommand()) {
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

// TestHelpIsNarrow: help fits into 80 columns, but for what is to be copied.
func TestHelpIsNarrow(t *testing.T) {
	t.Setenv("CNI_PATH", "")
	t.Setenv("NETCONFPATH", "")
	for _, command := range all(newRootCommand()) {
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
