package main

import "github.com/spf13/cobra"

func newClusterCommand() *cobra.Command {
	return newElsewhereCommand("cluster", "Manage what all hosts of a network share (trestle-node)")
}
