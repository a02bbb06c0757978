// Command trestle-node joins hosts: it gives each a subnet of a network's pool, configures
// the kernel so that the hosts reach each other's containers, and writes the network's
// configuration for the runtime. "trestle node …" and "trestle cluster …" run it.
//
// It alone knows stores (etcd, Kubernetes, a file); the plugins know nothing of other hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/internal/cli"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// release is the version of this build, set by the Makefile.
var release = "2.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cmd, err := newRootCommand().ExecuteContextC(ctx)
	stop()
	switch {
	case err == nil:
		return
	case errors.Is(err, errSaid):
	case asJSON(cmd) || slices.Contains(os.Args, "--"+jsonFlag): // flags are not parsed after a mistake
		_ = printJSON(os.Stdout, map[string]string{"error": cni.Plain(err).Error()}) // the exit status says it, too
	default:
		fmt.Fprintln(os.Stderr, "trestle-node:", cni.Plain(err))
	}
	os.Exit(cli.ExitCode(err))
}

// errSaid makes the program exit with 1 and print nothing: the command has printed its answer.
var errSaid = errors.New("said")

// calledAs is the command as people call it: trestle runs this program by its own name.
func calledAs() string {
	if filepath.Base(os.Args[0]) == "trestle" {
		return "trestle"
	}
	return "trestle-node"
}

func newRootCommand() *cobra.Command {
	root := group(calledAs(), "Networks over several hosts")
	root.Version = release
	root.SilenceErrors, root.SilenceUsage = true, true // main prints them
	root.AddCommand(newNodeCommand(), newClusterCommand())
	root.PersistentFlags().Bool(jsonFlag, false, "answer with JSON; an error is {\"error\": …}")
	cli.Check(root)
	return root
}

// group is a command that only has subcommands.
func group(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, SuggestionsMinimumDistance: 2}
}

// exitStatuses are those of cli.ExitCode, for the help.
const exitStatuses = `

Exit status: 0; 1 if something failed, or is not as it should be; 2 if the request is wrong,
or a file that a person wrote (node.json, cluster.json): then nothing was changed.`

func newNodeCommand() *cobra.Command {
	node := group("node", "This host's part in a network over several hosts")
	node.Long = node.Short + "." + exitStatuses
	node.AddCommand(newRunCommand(), newJoinCommand(), newStatusCommand(), newLeaveCommand(), newDrainCommand(),
		newUndrainCommand(), newAcceptCommand(), newResetIDCommand())
	return node
}

func newClusterCommand() *cobra.Command {
	c := group("cluster", "What all hosts of the network share: its configuration, hosts and subnets")
	c.Long = c.Short + "." + exitStatuses
	c.AddCommand(newInitCommand(), newConfigCommand(), newNodesCommand(), newSubnetsCommand(), newReserveCommand(),
		newReleaseCommand(), newCheckCommand(), newRestoreCommand(), newAcceptAllCommand(), newImportFlannelCommand())
	return c
}
