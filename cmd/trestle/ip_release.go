package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/record"
)

type ipReleaseOptions struct {
	*app
	network string
	force   bool
}

func newIPReleaseCommand(a *app) *cobra.Command {
	o := ipReleaseOptions{app: a}
	command := &cobra.Command{
		Use:   "release ADDRESS…",
		Short: "Free addresses",
		Long: `Free addresses whose container is proved dead or that were reserved by hand. With
--force free any: a container that is alive then keeps using its address, and the next
one gets it as well. To free everything that dead containers have, use trestle gc.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	command.Flags().StringVar(&o.network, "network", "", "the network of the addresses (default: the one that has them)")
	command.Flags().BoolVarP(&o.force, "force", "f", false, "free addresses of containers that are alive, or not proved dead, too")
	return command
}

// held is a lease to free.
type held struct {
	leaseStore
	ipam.Lease
}

func (o ipReleaseOptions) run(ctx context.Context, p *ui.Printer, args []string) error {
	addresses, err := parseAddresses(args)
	if err != nil {
		return err
	}
	if err := checkLayouts(ctx, o.plugins); err != nil {
		return err
	}
	o.tidy(ctx, p)
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	var names []string
	if o.network != "" {
		names = append(names, o.network)
	}
	all, err := stores(snapshot, names)
	if err != nil {
		return err
	}
	leases, err := o.find(all, addresses)
	if err != nil {
		return err
	}
	lines := []leaseLine{}
	var failed []error
	for _, l := range leases {
		owner, err := l.ReleaseAddress(l.Address)
		if err != nil {
			failed = append(failed, named(l.network, err))
			continue
		}
		lines = append(lines, leaseLine{Network: l.network, Address: l.Address, Container: owner.ContainerID, IfName: owner.IfName})
		if !p.JSON {
			p.Printf("%s: free in network %s\n", l.Address, l.network)
		}
	}
	if p.JSON {
		failed = append(failed, p.Document(lines))
	}
	return errors.Join(failed...)
}

// find looks for each address before any is freed.
func (o ipReleaseOptions) find(all []leaseStore, addresses []netip.Addr) ([]held, error) {
	var found []held
	for _, store := range all {
		leases, err := store.Leases()
		if err != nil {
			return nil, named(store.network, err)
		}
		for _, l := range leases {
			if slices.Contains(addresses, l.Address) {
				found = append(found, held{store, l})
			}
		}
	}
	for _, address := range addresses {
		var of []held
		for _, l := range found {
			if l.Address == address {
				of = append(of, l)
			}
		}
		switch {
		case len(of) == 0:
			return nil, cni.ConfigErrorf("address: %s is not leased; see trestle ip ls", address)
		case len(of) > 1:
			return nil, cni.ConfigErrorf("address: %s is leased in network %s and in %s; choose one with --network", address, of[0].network, of[1].network)
		case !o.force && of[0].Owner.ContainerID != "" && of[0].Life != record.Dead:
			return nil, cni.ConfigErrorf("address: %s is that of container %s, which is not proved dead; detach it, or use --force", address, of[0].Owner.ContainerID)
		}
	}
	return found, nil
}
