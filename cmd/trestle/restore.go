package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

func newRestoreCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "restore",
		Short: "Make masquerade, mapped ports and policies again after a flush",
		Long: `Make masquerade and mapped ports again from their records, in one transaction, and the
MAC spoof checks and the policies of the firewall plugin in others, after "nft flush
ruleset", a reload of firewalld or the like has taken them. Where nothing is missing,
nothing is changed. It says what was made again, network by network, and what was
found of containers that are gone.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			p := a.printer(command)
			if err := understood(command.Context(), a.plugins); err != nil {
				return err
			}
			a.tidy(command.Context(), p)
			done, err := restore()
			return errors.Join(err, printRestored(p, done))
		},
	}
}

// restore goes on with the next kind of state after a failure.
func restore() (done cni.Restored, err error) {
	for _, state := range registry.States() {
		if state.Restore != nil {
			err = errors.Join(err, state.Restore(&done))
		}
	}
	return done, err
}

func printRestored(p *ui.Printer, r cni.Restored) error {
	if p.JSON {
		return p.Document(r)
	}
	changed := r.Shared || len(r.Released)+len(r.Taken)+len(r.Void) > 0
	for _, network := range slices.Sorted(maps.Keys(r.Networks)) {
		var parts []string
		for _, m := range r.Networks[network] {
			parts = append(parts, describe(m))
		}
		if len(parts) > 0 {
			changed = true
			p.Printf("%s: made again %s\n", network, strings.Join(parts, "; "))
		}
	}
	if r.Shared {
		p.Printf("made again the rules that all networks' mapped ports share\n")
	}
	for _, label := range r.Released {
		p.Printf("%s: the container is gone; its ports are free\n", label)
	}
	for _, label := range r.Taken {
		p.Printf("%s: had no record any more, and is alive; its ports are recorded again\n", label)
	}
	for _, label := range r.Void {
		p.Printf("%s: nobody has it, by record, link or lease; what nftables or iptables had of it is removed\n", label)
	}
	for _, text := range r.Refused {
		p.Printf("%s; not made: DEL the one whose ADD did not end\n", text)
	}
	if !changed {
		p.Printf("nothing was missing (%s with records)\n", counted(len(r.Networks), "network"))
	}
	return nil
}

func describe(m cni.Made) string {
	switch {
	case m.Count > 0:
		return fmt.Sprintf("%d %s", m.Count, m.What)
	case len(m.Of) > 0:
		return m.What + " of " + strings.Join(m.Of, ", ")
	}
	return m.What
}
