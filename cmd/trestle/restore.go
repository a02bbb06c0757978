package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/firewall"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/translator"
)

func restoreCommand() *cobra.Command {
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
	records := record.Open(record.DefaultDir)
	walls := firewall.OpenHost(records)
	return errors.Join(err, conn.Close(), restoreSpoofChecks(records), walls.Restore(), walls.Close())
}

func restoreSpoofChecks(records record.Store) (err error) {
	lock, err := records.Lock()
	if err != nil {
		return err
	}
	conn := nft.Open(records.Dir("nft"))
	defer func() { err = errors.Join(err, lock.Unlock(), conn.Close()) }()
	changes, err := bridge.OpenSpoofChecks(records, conn).Restore()
	return errors.Join(err, conn.Commit(changes, nil))
}
