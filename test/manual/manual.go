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
	"time"

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

// elsewhere are the commands that another program runs for trestle, which knows their subcommands.
var elsewhere = regexp.MustCompile(`^trestle-(node|cluster)\b`)

// OfNode says whether trestle-node has the command, whose name is given as Dashed has it.
func OfNode(dashed string) bool { return elsewhere.MatchString(dashed) }

// ComparePages compares the man pages in a directory with those of the commands, or writes them
// (-update). Pages of others, of which isOurs is false by their name as Dashed has it, are left
// alone.
func ComparePages(t *testing.T, dir string, commands []*cobra.Command, isOurs func(dashed string) bool) {
	t.Helper()
	wanted := map[string]bool{}
	for _, command := range commands {
		if name := Dashed(command); isOurs(name) {
			path := filepath.Join(dir, name+".8")
			wanted[path] = true
			Compare(t, path, manPage(t, command))
		}
	}
	there, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		switch {
		case wanted[path] || !isOurs(strings.TrimSuffix(filepath.Base(path), ".8")):
		case !*golden.Update:
			t.Errorf("%s is of no command; make docs removes it", path)
		default:
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	}
}

// manPage is cobra's page of a command, and in it a list of the subcommands, of which cobra has
// only the names.
func manPage(t *testing.T, command *cobra.Command) []byte {
	t.Helper()
	var man bytes.Buffer
	day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) // so that the pages do not depend on the date
	header := &doc.GenManHeader{Title: strings.ToUpper(Dashed(command)), Section: "8", Date: &day, Source: "Trestle", Manual: "Trestle"}
	if err := doc.GenMan(command, header, &man); err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for _, child := range All(command)[1:] {
		if child.Parent() == command {
			list.WriteString(".TP\n\\fB" + child.Name() + "\\fP\n" + strings.ReplaceAll(child.Short, `\`, `\e`) + "\n")
		}
	}
	if list.Len() == 0 {
		return man.Bytes()
	}
	const next = "\n.SH OPTIONS\n"
	return bytes.Replace(man.Bytes(), []byte(next), []byte("\n.SH COMMANDS\n"+list.String()+"\n"+next), 1)
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
