// Command trestle is for people: it creates networks, attaches containers to them, shows what
// is on the host, finds and repairs faults, and collects garbage.
//
// Each subcommand has a file: newXCommand defines its flags, and run takes the host's
// inventory (package inventory) and shows it, or changes what the subcommand is named after.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/internal/cli"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

// release is the version of this build, set by the Makefile.
var release = "2.0.0-dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == enterCommand {
		os.Exit(enter(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	code := exitCode(err)
	var said exitStatus
	if err != nil && !errors.As(err, &said) {
		if os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w; trestle needs root for this: sudo trestle …", err)
		}
		fmt.Fprintln(os.Stderr, "trestle:", err)
	}
	os.Exit(code)
}

// exitFound is the exit code beside those of package cli; the manual page lists all.
const exitFound = 3

// exitStatus is an error that makes trestle exit with this code and print nothing: the command
// has printed its answer.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// errFound is the exit status of a command that looks for faults and has found some.
const errFound = exitStatus(exitFound)

// exitCode is cli.ExitCode, unless the command says its status itself.
func exitCode(err error) int {
	var said exitStatus
	if errors.As(err, &said) {
		return int(said)
	}
	return cli.ExitCode(err)
}

// app holds the root's flags, which every command has.
type app struct {
	json    bool
	lists   []string
	plugins []string
}

// printer prints the command's answer.
func (a *app) printer(command *cobra.Command) *ui.Printer {
	return ui.New(command.OutOrStdout(), command.ErrOrStderr(), a.json)
}

// take takes a snapshot of the host, and prints what could not be read to standard error.
func (a *app) take(p *ui.Printer) (*inventory.Snapshot, error) {
	source := inventory.DefaultSource()
	source.Lists = a.lists
	snapshot, err := source.Take()
	if err != nil {
		return nil, err
	}
	denied := false
	for _, problem := range snapshot.Problems {
		if os.Geteuid() != 0 && snapshot.IsDenied(problem) {
			denied = true // by one line for all of them
			continue
		}
		p.Notef("trestle: %s", problem)
	}
	if denied {
		p.Notef("trestle: only root can read leases, records, rules and results; without them this is incomplete: sudo trestle …")
	}
	return snapshot, nil
}

// note prints a problem, unless it is that only root may read something, as take has said already.
func note(p *ui.Printer, problem error) {
	if problem != nil && !(os.Geteuid() != 0 && errors.Is(problem, fs.ErrPermission)) {
		p.Notef("trestle: %v", problem)
	}
}

func newRootCommand() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:   "trestle",
		Short: "Look after the bridge networks of this host's containers",
		Long: `Look after the bridge networks of this host's containers, whatever runtime made them.

Exit status: 0; 1 if something failed; 2 if the request is wrong, and then nothing was
changed; 3 if a command that looks for faults has found some. "trestle run" ends with
the exit status of its command.

On a terminal tables are cut to its width; --json shows everything. NO_COLOR in the
environment switches colours off. NETCONFPATH and CNI_PATH are the defaults of --lists
and --plugins.`,
		Version:       release,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "answer in JSON")
	flags.StringSliceVar(&a.lists, "lists", fromEnv("NETCONFPATH", network.DefaultDir), "directories of network lists")
	flags.StringSliceVar(&a.plugins, "plugins", fromEnv("CNI_PATH", "/opt/cni/bin", "/usr/lib/cni"), "directories of plugins; the first that has a plugin counts")
	root.AddGroup(&cobra.Group{
		ID:    groupChange,
		Title: "Networks and containers:",
	}, &cobra.Group{ID: groupLook, Title: "Looking:"}, &cobra.Group{ID: groupCare, Title: "Looking after the host:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	add(groupChange, newNetworkCommand(a), newAttachCommand(a), newDetachCommand(a), newRunCommand(a), newStopCommand(a))
	add(groupLook, newLsCommand(a), newPortsCommand(a), newIPCommand(a), newExplainCommand(a), newTopologyCommand(a), newReportCommand(a), newStatusCommand(a), newMetricsCommand(a))
	add(groupCare, newDoctorCommand(a), newValidateCommand(a), newRestoreCommand(a), newGCCommand(a), newLeaveCommand(a))
	add(groupCare, newNodeCommand(), newClusterCommand())
	root.InitDefaultCompletionCmd() // cobra would add these two too late
	strictHelp(root)
	cli.Check(root)
	narrow(root)
	return root
}

// The groups of commands in the help.
const (
	groupChange = "change"
	groupLook   = "look"
	groupCare   = "care"
)

// fromEnv are the directories in an environment variable, as for cnitool, or the usual ones.
func fromEnv(variable string, usual ...string) []string {
	if value := os.Getenv(variable); value != "" {
		return filepath.SplitList(value)
	}
	return usual
}

// newGroupCommand is a command that only has subcommands.
func newGroupCommand(use, short string, children ...*cobra.Command) *cobra.Command {
	command := &cobra.Command{Use: use, Short: short, SuggestionsMinimumDistance: 2}
	command.AddCommand(children...)
	return command
}
