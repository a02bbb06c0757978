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
		Long: `Remove networks: the network list, and the network's bridge, rules, leases and records.
A network with live containers is refused, unless --force detaches them. A bridge that
Trestle did not make, or that has other ports, stays.`,
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
	for _, name := range names { // all are checked before any is removed
		if err := o.mayRemove(r.Snapshot, name); err != nil {
			return err
		}
	}
	return removeNetworks(ctx, p, r, names)
}

// mayRemove is an error if there is no such network, or it is in use.
func (o networkRmOptions) mayRemove(snapshot *inventory.Snapshot, name string) error {
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
		if a.State != inventory.Dead && !slices.Contains(names, a.Called()) {
			names = append(names, a.Called())
		}
	}
	return names
}

// removeNetworks goes on with the next one after a failure.
func removeNetworks(ctx context.Context, p *ui.Printer, r attach.Runtime, names []string) error {
	if err := checkLayouts(ctx, r.Plugins); err != nil {
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

// removeNetwork removes the list last, so that it can be repeated after a failure.
func removeNetwork(ctx context.Context, p *ui.Printer, r attach.Runtime, name string) error {
	n, _ := r.Snapshot.NetworkOf(name) // the callers have checked that there is one
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
		if list, err = attach.Former(name); err != nil {
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
		p.Notef("trestle: bridge %s stays: Trestle did not make it, or it has other ports", n.Bridge)
	}
	return nil
}

// removeFiles removes the network's directories of leases and, if they are empty, of records,
// and last its list.
func removeFiles(n *inventory.Network) error {
	if err := utils.ValidateNetworkName(n.Name); err != nil {
		return fmt.Errorf("%s: its name cannot be part of a path: %w", n.File, err)
	}
	var failed []error
	dirs := []string{ipam.DefaultDataDir}
	if n.DataDir != "" && filepath.Clean(n.DataDir) != ipam.DefaultDataDir {
		dirs = append(dirs, n.DataDir)
	}
	for _, dir := range dirs {
		failed = append(failed, os.RemoveAll(filepath.Join(dir, n.Name)))
	}
	failed = append(failed, os.RemoveAll(filepath.Join(ipam.DefaultDataDir, ".trestle", n.Name))) // which notes other data directories
	places, err := filepath.Glob(filepath.Join(record.DefaultDir, "*", n.Name))
	failed = append(failed, err)
	for _, place := range places {
		_ = os.Remove(place) // it fails if the directory has records, which are somebody's
	}
	if n.File != "" {
		failed = append(failed, os.Remove(n.File))
	}
	return errors.Join(failed...)
}
