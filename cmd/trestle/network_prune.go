package main

import (
	"bufio"
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type networkPruneOptions struct {
	*app
	force, dryRun bool
}

func newNetworkPruneCommand(a *app) *cobra.Command {
	o := networkPruneOptions{app: a}
	command := &cobra.Command{
		Use:   "prune",
		Short: "Remove the networks that nobody is on",
		Long: `Remove those networks made by "network create" that have no container. Lists that
somebody else put there, as for Kubernetes, stay.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return o.run(command.Context(), a.printer(command))
		},
	}
	command.Flags().BoolVarP(&o.force, "force", "f", false, "do not ask")
	command.Flags().BoolVar(&o.dryRun, "dry-run", false, "show which would be removed, and change nothing")
	return command
}

func (o networkPruneOptions) run(ctx context.Context, p *ui.Printer) (err error) {
	asks := !o.force && !o.dryRun
	if asks && !term.IsTerminal(int(os.Stdin.Fd())) {
		return cni.ConfigErrorf("--force: not given, and there is no terminal to ask at; give it, or --dry-run")
	}
	r, release, err := o.alone(ctx, p, o.dryRun)
	if err != nil {
		return err
	}
	defer release(&err)
	names := unused(r.Snapshot)
	switch {
	case o.dryRun && p.JSON:
		return p.Document(names)
	case o.dryRun:
		for _, name := range names {
			p.Printf("%s\n", name)
		}
		return nil
	case asks && len(names) > 0 && !confirmed(p, names):
		return nil
	}
	return removeNetworks(ctx, p, r, names)
}

func unused(snapshot *inventory.Snapshot) []string {
	names := []string{}
	for _, n := range snapshot.Networks {
		if !n.Created.IsZero() && len(users(snapshot, n.Name)) == 0 {
			names = append(names, n.Name)
		}
	}
	return names
}

func confirmed(p *ui.Printer, names []string) bool {
	p.Printf("Remove %s? [y/N] ", sentence(names))
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n') // no answer is no
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}
