package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
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
		Short: "Free what belongs to containers that are provably gone",
		Long: `Free addresses, links, rules and host ports of containers that are provably gone:
those of an earlier boot, or whose network namespace no longer exists. It does what
Trestle's plugins do at a GC without a list of valid attachments, for each network list
or for those that are named: whatever cannot be proved dead stays. You can run it at
any time, beside any runtime.`,
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	command.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be freed, and change nothing")
	return command
}

// run goes on with the next list after a failure. What a killed "trestle run" left comes
// first, since its network namespace keeps the rest alive.
func (o gcOptions) run(ctx context.Context, p *ui.Printer, networks []string) error {
	var failed []error
	if !o.dryRun {
		if err := understood(ctx, o.plugins); err != nil {
			return err
		}
		failed = append(failed, o.sweep(ctx, p))
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
		return errors.Join(append(failed, o.print(p, deadOf(before)))...)
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
		return errors.Join(append(failed, o.print(p, nil))...)
	}
	after, err := o.take(p)
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	return errors.Join(append(failed, o.print(p, gone(before, after)))...)
}

// unreadable returns an error for each file that is not a network list: its attachments stay.
func unreadable(dirs []string) error {
	_, err := network.Read(dirs)
	return err
}

// collect runs GC for each list, and prints with which plugins.
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

// gone are the attachments that were proved dead before and no longer exist.
func gone(before []inventory.Attachment, after *inventory.Snapshot) []inventory.Attachment {
	return slices.DeleteFunc(deadOf(before), func(a inventory.Attachment) bool {
		return slices.ContainsFunc(after.Attachments, func(b inventory.Attachment) bool {
			return a.Network == b.Network && a.Container == b.Container && a.IfName == b.IfName
		})
	})
}

func (o gcOptions) print(p *ui.Printer, attachments []inventory.Attachment) error {
	if p.JSON {
		return p.Document(append([]inventory.Attachment{}, attachments...))
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
