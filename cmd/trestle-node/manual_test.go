package main

import (
	"testing"

	"github.com/trestle-cni/trestle/test/manual"
)

// TestManual: docs/trestle-node.md is what the commands generate, each as people call it.
func TestManual(t *testing.T) {
	root := newRootCommand()
	root.Use = "trestle" // which runs trestle-node for them
	root.DisableAutoGenTag = true
	const head = "# trestle node and trestle cluster, command by command\n\n" +
		"Made by `make docs` from what the commands say of themselves (`trestle node COMMAND --help`). `trestle` runs the program `trestle-node` for them; " +
		"[hosts](hosts.md) tells what they are for, [trestle, command by command](cli.md) has the other commands. " +
		"With `--json` each answers in JSON; an error is `{\"error\": …}`.\n\n"
	manual.Compare(t, "../../docs/trestle-node.md", manual.Page(t, head, manual.All(root)[1:]))
}

// TestCommandsAreDescribed: each command has a description.
func TestCommandsAreDescribed(t *testing.T) {
	for _, command := range manual.All(newRootCommand()) {
		if command.Short == "" {
			t.Errorf("%s: got no description, want one", command.CommandPath())
		}
	}
}
