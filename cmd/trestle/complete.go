package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
)

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// offer completes the arguments from index first to last (-1: all) with names that are not
// among them yet.
func offer(names func() []string, first, last int) completion {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) < first || last >= 0 && len(args) > last {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		given := func(name string) bool { return slices.Contains(args, name) }
		return slices.DeleteFunc(names(), given), cobra.ShellCompDirectiveNoFileComp
	}
}

// networkNames are the networks that have a list; a snapshot of the host would take longer.
func (a *app) networkNames() []string {
	lists, _ := network.Read(a.lists) // lists that cannot be read are not offered
	var names []string
	for _, l := range lists {
		names = append(names, l.Name)
	}
	return names
}

// containerNames are the names of attached containers.
func (a *app) containerNames() []string {
	source := inventory.DefaultSource()
	source.Lists = a.lists
	snapshot, err := source.Take()
	if err != nil {
		return nil
	}
	var names []string
	for _, on := range snapshot.Attachments {
		if !slices.Contains(names, on.Container) {
			names = append(names, on.Container)
		}
	}
	return names
}

// netModes completes the value of run's --net.
func (a *app) netModes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	modes := append([]string{"bridge", "host", "none"}, a.networkNames()...)
	for _, name := range a.containerNames() {
		modes = append(modes, "container:"+name)
	}
	return modes, cobra.ShellCompDirectiveNoFileComp
}

func completeFlag(command *cobra.Command, flag string, by completion) {
	if err := command.RegisterFlagCompletionFunc(flag, by); err != nil {
		panic(err) // the command has no such flag
	}
}

func words(all ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}
