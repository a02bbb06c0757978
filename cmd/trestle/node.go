package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func newNodeCommand() *cobra.Command {
	return newElsewhereCommand("node", "Manage this host in a network over several hosts (trestle-node)")
}

// newElsewhereCommand is a command that trestle-node runs: this program links no client of a
// store, and stays small.
func newElsewhereCommand(name, short string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return becomeNode(append([]string{name}, args...)) },
	}
}

// becomeNode replaces this process with trestle-node, found beside this program or in PATH.
func becomeNode(args []string) error {
	program, err := findNode()
	if err != nil {
		return err
	}
	if err := syscall.Exec(program, append([]string{program}, args...), os.Environ()); err != nil {
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
