package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/plugins/registry"
)

func newRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore",
		Short: "Make masquerade, mapped ports and policies again after a flush or a firewalld reload",
		Long: `Make masquerade and mapped ports again from their records, in one transaction,
and the MAC spoof checks and the policies of the firewall plugin in others, after "nft flush ruleset", a
reload of firewalld or the like has taken them. Where nothing is missing, nothing
is changed.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return restore() },
	}
}

// restore goes on with the next kind after a failure.
func restore() error {
	var failed error
	for _, state := range registry.States() {
		if state.Restore != nil {
			failed = errors.Join(failed, state.Restore())
		}
	}
	return failed
}
