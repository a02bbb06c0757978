package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/container"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

type gcOptions struct {
	*app
	dryRun bool
}

func newGCCommand(a *app) *cobra.Command {
	o := gcOptions{app: a}
	command := &cobra.Command{
		Use:   "gc [NETWORK…]",
		Short: "Free what provably dead containers have left",
		Long: `Free addresses, links, rules and host ports of containers that are provably gone:
those of an earlier boot, or whose network namespace no longer exists. It does what
Trestle's plugins do at a GC without a list of valid attachments, for each network list
or for those that are named: whatever cannot be proved dead stays. What a trestle run
has left that was killed goes too. You can run it at any time, beside any runtime.`,
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	command.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be freed, and change nothing")
	return command
}

// run goes on with the next list after a failure. It first clears away what a killed "trestle
// run" left, whose network namespace would count as alive.
func (o gcOptions) run(ctx context.Context, p *ui.Printer, networks []string) error {
	var failed []error
	var swept []inventory.Attachment
	if !o.dryRun {
		if err := checkLayouts(ctx, o.plugins); err != nil {
			return err
		}
		freed, err := o.sweep(ctx, p)
		swept, failed = freed, append(failed, err)
	}
	r, err := o.runtime(p)
	if err != nil {
		return err
	}
	failed = append(failed, unreadable(o.lists))
	before, err := onNetworks(r.Snapshot, networks)
	if err != nil {
		return err
	}
	if o.dryRun {
		return errors.Join(append(failed, o.print(p, wouldFree(r.Snapshot, before)))...)
	}
	failed = append(failed, o.collect(ctx, p, r, networks))
	dead := deadOf(before)
	progress := p.Progress("clean up after dead containers", len(dead))
	for _, a := range dead {
		progress.Step()
		if n, ok := r.Snapshot.NetworkOf(a.Network); ok && (n.File == "" || a.Evidence.Cache) {
			failed = append(failed, r.Del(ctx, a))
		}
	}
	progress.Done()
	if len(dead) == 0 {
		return errors.Join(append(failed, o.print(p, swept))...)
	}
	after, err := o.take(p)
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	return errors.Join(append(failed, o.print(p, slices.Concat(swept, gone(before, after))))...)
}

// unreadable is an error for each file that is not a network list, since its attachments stay.
func unreadable(dirs []string) error {
	_, err := network.Read(dirs)
	return err
}

// collect runs GC for each list, and prints which plugins ran.
func (o gcOptions) collect(ctx context.Context, p *ui.Printer, r attach.Runtime, networks []string) error {
	var failed []error
	for _, list := range r.Lists {
		if len(networks) > 0 && !slices.Contains(networks, list.Name) {
			continue
		}
		asked, err := reclaim(ctx, r.Plugins, list, provablyDead)
		failed = append(failed, err)
		if len(asked) == 0 {
			asked = []string{"none of Trestle's plugins"}
		}
		if !p.JSON {
			p.Printf("%s (%s): %s\n", list.Name, list.File, strings.Join(asked, ", "))
		}
	}
	return errors.Join(failed...)
}

func deadOf(attachments []inventory.Attachment) []inventory.Attachment {
	return slices.DeleteFunc(slices.Clone(attachments), func(a inventory.Attachment) bool { return a.State != inventory.Dead })
}

// wouldFree are the attachments of containers whose trestle run was killed, of whatever network, as
// sweep takes them, and those that are proved dead.
func wouldFree(snapshot *inventory.Snapshot, asked []inventory.Attachment) []inventory.Attachment {
	var swept []inventory.Attachment
	for _, c := range container.Killed() {
		swept = append(swept, ranOn(snapshot, c)...)
	}
	return append(swept, without(deadOf(asked), swept)...)
}

// gone are the attachments that were proved dead before and do not exist any more.
func gone(before []inventory.Attachment, after *inventory.Snapshot) []inventory.Attachment {
	return without(deadOf(before), after.Attachments)
}

// without are those of all that are not among the others.
func without(all, others []inventory.Attachment) []inventory.Attachment {
	return slices.DeleteFunc(all, func(a inventory.Attachment) bool {
		return slices.ContainsFunc(others, func(b inventory.Attachment) bool {
			return a.Network == b.Network && a.Container == b.Container && a.IfName == b.IfName
		})
	})
}

func (o gcOptions) print(p *ui.Printer, attachments []inventory.Attachment) error {
	if p.JSON {
		return p.Document(append([]inventory.Attachment{}, attachments...))
	}
	if len(attachments) == 0 && o.dryRun { // otherwise it has named the lists
		p.Printf("no dead container\n")
	}
	what := "freed"
	if o.dryRun {
		what = "would free"
	}
	for _, a := range attachments {
		has := slices.Concat(texts(a.Addresses), texts(a.Published()))
		p.Printf("  %s %s/%s/%s: %s\n", what, a.Network, ui.Short(a.Container), a.IfName, strings.Join(has, ", "))
	}
	return nil
}
