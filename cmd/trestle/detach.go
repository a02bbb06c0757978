package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type detachOptions struct {
	*app
	ifname string
}

func newDetachCommand(a *app) *cobra.Command {
	o := detachOptions{app: a}
	command := &cobra.Command{
		Use:   "detach CONTAINER [NETWORK…]",
		Short: "Detach a container from its networks",
		Long: `Detach a container from the named networks, or from all. Its addresses, links, rules
and published ports are removed, even if its network namespace no longer exists.
CONTAINER is a name as ls shows it, or the unambiguous beginning of one.`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(command *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return offer(a.containerNames, 0, 0)(command, args, word)
			}
			return offer(a.networkNames, 1, -1)(command, args, word)
		},
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	command.Flags().StringVar(&o.ifname, "ifname", "", "only this interface")
	return command
}

// detached is a line of the answer.
type detached struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	IfName    string `json:"ifname"`
}

func (o detachOptions) run(ctx context.Context, p *ui.Printer, args []string) error {
	o.tidy(ctx, p)
	r, err := o.runtime(p)
	if err != nil {
		return err
	}
	chosen, err := o.choose(r.Snapshot, args[0], args[1:])
	if err != nil {
		return err
	}
	var done []detached
	var failed []error
	for _, a := range chosen {
		if err := r.Del(ctx, a); err != nil {
			failed = append(failed, err)
			continue
		}
		done = append(done, detached{a.Network, a.Container, a.IfName})
		if !p.JSON {
			p.Printf("%s: %s detached from network %s\n", a.Container, a.IfName, a.Network)
		}
	}
	if p.JSON {
		failed = append(failed, p.Document(done))
	}
	return errors.Join(failed...)
}

// choose finds the attachments that the arguments name, all of one container.
func (o detachOptions) choose(snapshot *inventory.Snapshot, container string, networks []string) ([]inventory.Attachment, error) {
	all := snapshot.Of(container)
	if len(all) == 0 {
		return nil, cni.ConfigErrorf("container %q: no container with that name is on a network; see trestle ls", container)
	}
	var names []string
	for _, a := range all {
		if !slices.Contains(names, a.Container) {
			names = append(names, a.Container)
		}
	}
	if len(names) > 1 {
		return nil, cni.ConfigErrorf("container %q: it may be %s; give more of its name", container, sentence(names))
	}
	for _, name := range networks {
		if !slices.ContainsFunc(all, func(a inventory.Attachment) bool { return a.Network == name }) {
			return nil, cni.ConfigErrorf("network %q: container %s is not on it, but on %s", name, names[0], sentence(networksOf(all)))
		}
	}
	var chosen []inventory.Attachment
	for _, a := range all {
		if (len(networks) == 0 || slices.Contains(networks, a.Network)) && (o.ifname == "" || o.ifname == a.IfName) {
			chosen = append(chosen, a)
		}
	}
	if len(chosen) == 0 {
		return nil, cni.ConfigErrorf("--ifname: container %s has no %s there", names[0], o.ifname)
	}
	return chosen, nil
}

func networksOf(attachments []inventory.Attachment) []string {
	var names []string
	for _, a := range attachments {
		if !slices.Contains(names, a.Network) {
			names = append(names, a.Network)
		}
	}
	return names
}
