package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

type ipVerifyOptions struct {
	*app
	repair bool
}

func newIPVerifyCommand(a *app) *cobra.Command {
	o := ipVerifyOptions{app: a}
	return &cobra.Command{
		Use:   "verify [NETWORK…]",
		Short: "Look for damage in the store of leases",
		Long: `Look for damage in the store of leases: empty or truncated files, records without a
lease, an index that differs from the leases. None of it does harm, and the next
command that changes the store repairs it; see repair. Exit status 3 says that
something was found.`,
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE:              func(command *cobra.Command, args []string) error { return o.run(a.printer(command), args) },
	}
}

func newIPRepairCommand(a *app) *cobra.Command {
	o := ipVerifyOptions{app: a, repair: true}
	return &cobra.Command{
		Use:   "repair [NETWORK…]",
		Short: "Repair what verify finds",
		Long: `Repair what verify finds, and report it. Leases stay, except for files that are empty
or truncated and so name no container.`,
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE: func(command *cobra.Command, args []string) error {
			if err := checkLayouts(command.Context(), a.plugins); err != nil {
				return err
			}
			return o.run(a.printer(command), args)
		},
	}
}

// problemLine is a problem of a store, as it is listed.
type problemLine struct {
	Network string `json:"network"`
	File    string `json:"file"` // relative to the network's directory
	What    string `json:"what"`
}

func (o ipVerifyOptions) run(p *ui.Printer, networks []string) error {
	_, all, err := o.takeStores(p, networks)
	if err != nil {
		return err
	}
	lines := []problemLine{}
	var failed []error
	progress := p.Progress("look at leases", len(all))
	for _, store := range all {
		problems, err := store.Verify()
		if err == nil && o.repair && len(problems) > 0 {
			err = store.Repair()
		}
		failed = append(failed, named(store.network, err))
		for _, problem := range problems {
			lines = append(lines, problemLine{store.network, problem.File, problem.What})
		}
		progress.Step()
	}
	progress.Done()
	if err := o.print(p, lines); err != nil {
		failed = append(failed, err)
	}
	if len(lines) == 0 && !p.JSON && errors.Join(failed...) == nil {
		p.Printf("%s\n", p.Paint(ui.Good, counted(len(all), "network")+" without damage"))
	}
	if err := errors.Join(failed...); err != nil || o.repair || len(lines) == 0 {
		return err
	}
	return errFound
}

func (o ipVerifyOptions) print(p *ui.Printer, lines []problemLine) error {
	if p.JSON {
		return p.Document(lines)
	}
	what := ""
	if o.repair {
		what = "repaired: "
	}
	for _, l := range lines {
		p.Printf("%s%s: %s: %s\n", what, l.Network, l.File, l.What)
	}
	return nil
}
