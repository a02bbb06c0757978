package main

import (
	"testing"

	"github.com/trestle-cni/trestle/test/manual"
)

// TestManual: docs/trestle-node.md and the man pages are what the commands generate, each as people
// call it.
func TestManual(t *testing.T) {
	root := newRootCommand()
	root.Use = "trestle" // which runs trestle-node for them
	root.DisableAutoGenTag = true
	const head = "# trestle node and trestle cluster, command by command\n\n" +
		"Made by `make docs` from what the commands say of themselves (`trestle node COMMAND --help`); man pages are in `docs/man`. `trestle` runs the program `trestle-node` for them; " +
		"[hosts](hosts.md) tells what they are for, [trestle, command by command](cli.md) has the other commands. " +
		"With `--json` each answers in JSON; an error is `{\"error\": …}`.\n\n"
	commands := manual.All(root)[1:]
	manual.Compare(t, "../../docs/trestle-node.md", manual.Page(t, head, commands))
	manual.ComparePages(t, "../../docs/man", commands, manual.OfNode)
}

// TestCommandsAreDescribed: each command has a description.
func TestCommandsAreDescribed(t *testing.T) {
	for _, command := range manual.All(newRootCommand()) {
		if command.Short == "" {
			t.Errorf("%s: got no description, want one", command.CommandPath())
		}
	}
}
