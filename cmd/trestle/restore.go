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
		Short: "Restore masquerade, mapped ports and policies after a flush",
		Long: `Restore masquerade and mapped ports from their records in one transaction, and MAC
spoof checks and the firewall plugin's policies in others, after "nft flush ruleset" or
another program has deleted them. If nothing is missing, nothing is changed. It reports
what was restored, network by network, and what it removed of containers that are gone.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			p := a.printer(command)
			if err := checkLayouts(command.Context(), a.plugins); err != nil {
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
		return p.Document(withoutNull(r))
	}
	changed := r.Shared || len(r.Released)+len(r.Taken)+len(r.Void) > 0
	for _, network := range slices.Sorted(maps.Keys(r.Networks)) {
		var parts []string
		for _, m := range r.Networks[network] {
			parts = append(parts, describe(m))
		}
		if len(parts) > 0 {
			changed = true
			p.Printf("%s: restored %s\n", network, strings.Join(parts, "; "))
		}
	}
	if r.Shared {
		p.Printf("restored the rules that all networks' mapped ports share\n")
	}
	for _, label := range r.Released {
		p.Printf("%s: the container is gone; its ports are free\n", label)
	}
	for _, label := range r.Taken {
		p.Printf("%s: had no record but is alive; its ports are recorded again\n", label)
	}
	for _, label := range r.Void {
		p.Printf("%s: stale, without record, link or lease; what nftables or iptables had of it is removed\n", label)
	}
	for _, text := range r.Refused {
		p.Printf("%s; not restored: DEL the attachment whose ADD did not end\n", text)
	}
	if !changed {
		p.Printf("nothing was missing (%s with records)\n", counted(len(r.Networks), "network"))
	}
	return nil
}

// withoutNull has empty lists for programs where r has none.
func withoutNull(r cni.Restored) cni.Restored {
	networks := map[string][]cni.Made{}
	for name, made := range r.Networks {
		networks[name] = append([]cni.Made{}, made...)
	}
	r.Networks = networks
	for _, list := range []*[]string{&r.Released, &r.Taken, &r.Void, &r.Refused} {
		*list = append([]string{}, *list...)
	}
	return r
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
