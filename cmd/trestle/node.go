package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func newNodeCommand() *cobra.Command {
	return newElsewhereCommand("node", "This host's part in a network over several hosts (trestle-node)",
		`This host's part in a network over several hosts. It runs trestle-node; see "trestle
node COMMAND --help", and docs/hosts.md.

    join      write this host's settings, if it can be in the network
    run       be the agent; trestle-node.service does this
    status    show how this host stands, its subnets and its peers
    drain     keep new containers away; undrain ends that
    undrain   let the runtime start containers again
    leave     take this host out of the network
    accept    believe that what the store no longer lists is gone
    reset-id  make a host of its own of one whose disk was copied`)
}

// newElsewhereCommand is a command that trestle-node runs: this program links no client of a
// store, and stays small.
func newElsewhereCommand(name, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: name + " COMMAND", Short: short, Long: long, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return becomeNode(append([]string{name}, args...)) },
		ValidArgsFunction: func(command *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			return completeNode(command.Context(), append(append([]string{name}, args...), begun))
		},
	}
}

// completeNode asks trestle-node what may follow, as a shell's script does: a line for each word,
// and a last one with the directive, ":4".
func completeNode(ctx context.Context, words []string) ([]string, cobra.ShellCompDirective) {
	program, err := findNode()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	output, err := exec.CommandContext(ctx, program, append([]string{cobra.ShellCompRequestCmd}, words...)...).Output()
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	last := len(lines) - 1
	directive, isNumber := strconv.Atoi(strings.TrimPrefix(lines[last], ":"))
	if err := errors.Join(err, isNumber); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return lines[:last], cobra.ShellCompDirective(directive)
}

// becomeNode replaces this process with trestle-node, found beside this program or in PATH. It is
// run by this program's name, so that its help and errors speak of commands that people know.
func becomeNode(args []string) error {
	program, err := findNode()
	if err != nil {
		return err
	}
	if err := syscall.Exec(program, append([]string{"trestle"}, args...), os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}

func findNode() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "trestle-node")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	program, err := exec.LookPath("trestle-node")
	if err != nil {
		return "", errors.New("networks over several hosts need the program trestle-node, which is neither beside trestle nor in PATH: make install puts it there (docs/hosts.md)")
	}
	return program, nil
}
