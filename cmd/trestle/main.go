// Command trestle is for people: what the plugins do for runtimes, and cannot
// do by themselves.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// release is the version of this build, set by the Makefile.
var release = "2.0.0-dev"

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "trestle:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "trestle",
		Short:         "Look after the bridge network of this host's containers",
		Version:       release,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	}
	root.AddCommand(restoreCommand(), gcCommand())
	return root
}
