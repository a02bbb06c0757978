package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/firewall"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/translator"
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

func restore() error {
	conn, host := translator.Open()
	_, err := host.Restore()
	walls := firewall.OpenHost(record.Open(record.DefaultDir))
	return errors.Join(err, translator.WithSpoofChecks(conn, bridge.SpoofChecks.Restore), conn.Close(), walls.Restore(), walls.Close())
}
