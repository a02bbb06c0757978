// Package manual makes pages of commands out of what cobra says of them: the manuals in docs/,
// which tests hold up to date.
package manual

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/trestle-cni/trestle/test/golden"
)

// All is a command and its subcommands, without hidden ones and cobra's own.
func All(command *cobra.Command) []*cobra.Command {
	commands := []*cobra.Command{command}
	if command.Name() == "completion" {
		return commands // without a page for each shell
	}
	for _, child := range command.Commands() {
		if child.IsAvailableCommand() && child.Name() != "help" {
			commands = append(commands, All(child)...)
		}
	}
	return commands
}

// Dashed is the command's path as the name of a page, or of a heading: "trestle-ip-ls".
func Dashed(command *cobra.Command) string {
	return strings.ReplaceAll(command.CommandPath(), " ", "-")
}

// Page is the help of each command behind a head and a list of them, without what is the same for
// all.
func Page(t *testing.T, head string, commands []*cobra.Command) []byte {
	t.Helper()
	var out bytes.Buffer
	out.WriteString(head)
	for _, command := range commands {
		out.WriteString("- [" + command.CommandPath() + "](#" + Dashed(command) + "): " + command.Short + "\n")
	}
	for _, command := range commands {
		out.WriteString("\n" + section(t, command) + "\n")
	}
	return out.Bytes()
}

var (
	indented  = regexp.MustCompile(`(?m)(?:^    .*\n)+`)
	inherited = regexp.MustCompile(`(?s)### Options inherited from parent commands.*?\n\n(?:###|$)`)
)

func section(t *testing.T, command *cobra.Command) string {
	t.Helper()
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
	return strings.TrimSpace(text)
}

// Compare compares a file with what it should be, or writes it (-update).
func Compare(t *testing.T, path string, want []byte) {
	t.Helper()
	if *golden.Update {
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
		t.Errorf("%s is not current; make docs rewrites it (-have +want):\n%s", path, diff)
	}
}
