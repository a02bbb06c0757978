package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/container"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/record"
)

type networkRmOptions struct {
	*app
	force bool
}

func newNetworkRmCommand(a *app) *cobra.Command {
	o := networkRmOptions{app: a}
	command := &cobra.Command{
		Use:     "rm NETWORK…",
		Aliases: []string{"remove"},
		Short:   "Remove networks, with bridge, rules, leases and files",
		Long: `Remove networks: the network list, and the bridge, rules, leases and records that are
the network's. One that has containers alive is refused, unless --force detaches them.
A bridge that Trestle did not make, or that carries what is not the network's, stays.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	command.Flags().BoolVarP(&o.force, "force", "f", false, "detach containers that are alive")
	return command
}

func (o networkRmOptions) run(ctx context.Context, p *ui.Printer, names []string) (err error) {
	r, release, err := o.alone(ctx, p, false)
	if err != nil {
		return err
	}
	defer release(&err)
	for _, name := range names { // all of them, before any goes
		if err := o.mayGo(r.Snapshot, name); err != nil {
			return err
		}
	}
	return removeNetworks(ctx, p, r, names)
}

// mayGo refuses a network that is not there, or is in use.
func (o networkRmOptions) mayGo(snapshot *inventory.Snapshot, name string) error {
	if _, ok := snapshot.NetworkOf(name); !ok {
		return unknownNetwork(snapshot, name)
	}
	if using := users(snapshot, name); len(using) > 0 && !o.force {
		is := "is"
		if len(using) > 1 {
			is = "are"
		}
		return cni.ConflictErrorf("network %s: %s %s attached; %s first, or use --force", name, sentence(using), is, wayOff(using))
	}
	return nil
}

// wayOff says how the containers get off their network: a command of trestle run would go on
// without one if its container were only detached.
func wayOff(using []string) string {
	isRun := func(name string) bool { return slices.Contains(container.Names(), name) }
	attached := slices.DeleteFunc(slices.Clone(using), isRun)
	run := slices.DeleteFunc(slices.Clone(using), func(name string) bool { return !isRun(name) })
	all := "it"
	if len(using) > 1 {
		all = "them"
	}
	switch {
	case len(run) == 0:
		return "detach " + all
	case len(attached) == 0:
		return "stop " + all
	}
	return "detach " + sentence(attached) + " and stop " + sentence(run)
}

// users are the containers on a network that are not proved dead.
func users(snapshot *inventory.Snapshot, name string) []string {
	var names []string
	for _, a := range snapshot.On(name) {
		if a.State != inventory.Dead && !slices.Contains(names, called(a)) {
			names = append(names, called(a))
		}
	}
	return names
}

// removeNetworks goes on with the next one after a failure.
func removeNetworks(ctx context.Context, p *ui.Printer, r attach.Runtime, names []string) error {
	if err := understood(ctx, r.Plugins); err != nil {
		return err
	}
	removed := []string{}
	var failed []error
	for _, name := range names {
		if err := removeNetwork(ctx, p, r, name); err != nil {
			failed = append(failed, fmt.Errorf("remove network %s: %w", name, err))
			continue
		}
		removed = append(removed, name)
		if !p.JSON {
			p.Printf("%s\n", name)
		}
	}
	if p.JSON {
		failed = append(failed, p.Document(removed))
	}
	return errors.Join(failed...)
}

// removeNetwork takes the list away last, so that what fails can be done again.
func removeNetwork(ctx context.Context, p *ui.Printer, r attach.Runtime, name string) error {
	n, _ := r.Snapshot.NetworkOf(name) // looked up before
	var failed []error
	on := r.Snapshot.On(name)
	progress := p.Progress("detach from network "+name, len(on))
	for _, a := range on {
		failed = append(failed, r.Del(ctx, a))
		progress.Step()
	}
	progress.Done()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	list, ok := network.Find(r.Lists, name)
	if !ok {
		var err error
		if list, err = attach.Former(name, ""); err != nil {
			return err
		}
	}
	if _, err := reclaim(ctx, r.Plugins, list, everything); err != nil {
		return err
	}
	if err := removeFiles(n); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join("/sys/class/net", n.Bridge)); err == nil && n.Bridge != "" {
		p.Notef("trestle: bridge %s stays: Trestle did not make it, or it carries what is not the network's", n.Bridge)
	}
	return nil
}

// removeFiles removes the list and, where host-local is the network's, the directory of
// leases.
func removeFiles(n *inventory.Network) error {
	if err := utils.ValidateNetworkName(n.Name); err != nil {
		return fmt.Errorf("%s: its name could lead anywhere: %w", n.File, err)
	}
	var failed []error
	dirs := []string{ipam.DefaultDataDir}
	if n.DataDir != "" && filepath.Clean(n.DataDir) != ipam.DefaultDataDir {
		dirs = append(dirs, n.DataDir)
	}
	for _, dir := range dirs {
		failed = append(failed, os.RemoveAll(filepath.Join(dir, n.Name)))
	}
	failed = append(failed, os.RemoveAll(filepath.Join(ipam.DefaultDataDir, ".trestle", n.Name))) // notes of other directories
	places, err := filepath.Glob(filepath.Join(record.DefaultDir, "*", n.Name))
	failed = append(failed, err)
	for _, place := range places {
		_ = os.Remove(place) // of records: empty by now, or somebody's
	}
	if n.File != "" {
		failed = append(failed, os.Remove(n.File))
	}
	return errors.Join(failed...)
}
