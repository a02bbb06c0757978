package main

import (
	"errors"
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
		Short: "Make masquerade, mapped ports and policies again after a flush or a firewalld reload",
		Long: `Make masquerade and mapped ports again from their records, in one transaction,
and the MAC spoof checks and the policies of the firewall plugin in others, after "nft flush ruleset", a
reload of firewalld or the like has taken them. Where nothing is missing, nothing
is changed. It says what was made again, network by network.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			mended, err := restore()
			return errors.Join(err, printMended(a.printer(command), mended))
		},
	}
}

// restore goes on with the next kind after a failure.
func restore() (mended []cni.Mended, failed error) {
	for _, state := range registry.States() {
		if state.Restore != nil {
			some, err := state.Restore()
			mended, failed = append(mended, some...), errors.Join(failed, err)
		}
	}
	return mended, failed
}

// printMended has a line for each network.
func printMended(p *ui.Printer, mended []cni.Mended) error {
	if p.JSON {
		return p.Document(append([]cni.Mended{}, mended...))
	}
	if len(mended) == 0 {
		p.Printf("nothing was missing\n")
	}
	var networks []string
	byNetwork := map[string][]string{}
	for _, m := range mended {
		if !slices.Contains(networks, m.Network) {
			networks = append(networks, m.Network)
		}
		if !slices.Contains(byNetwork[m.Network], m.What) {
			byNetwork[m.Network] = append(byNetwork[m.Network], m.What)
		}
	}
	slices.Sort(networks)
	for _, network := range networks {
		name := network
		if name == "" {
			name = "all networks"
		}
		p.Printf("%s: %s\n", name, strings.Join(byNetwork[network], "; "))
	}
	return nil
}
