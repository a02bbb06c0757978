package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
)

func newIPCommand(a *app) *cobra.Command {
	return newGroupCommand("ip", "Leased addresses, and the store of leases",
		newIPLsCommand(a), newIPReleaseCommand(a), newIPVerifyCommand(a), newIPRepairCommand(a), newIPMapCommand(a))
}

// leaseStore is where a network's leases are.
type leaseStore struct {
	network string
	dir     string
	*ipam.Store
}

// takeStores is take, with the stores of the networks.
func (a *app) takeStores(p *ui.Printer, networks []string) (*inventory.Snapshot, []leaseStore, error) {
	snapshot, err := a.take(p)
	if err != nil {
		return nil, nil, err
	}
	all, err := stores(snapshot, networks)
	return snapshot, all, err
}

// lockWait is for people, who can ask again.
const lockWait = 5 * time.Second

// stores are those of the networks, or of all where none is named.
func stores(snapshot *inventory.Snapshot, names []string) ([]leaseStore, error) {
	for _, name := range names {
		if _, ok := snapshot.NetworkOf(name); !ok {
			return nil, unknownNetwork(snapshot, name)
		}
	}
	var all []leaseStore
	for _, n := range snapshot.Networks {
		if len(names) > 0 && !slices.Contains(names, n.Name) {
			continue
		}
		dir := cmp.Or(n.DataDir, ipam.DefaultDataDir)
		all = append(all, leaseStore{n.Name, dir, ipam.NewStore(dir, n.Name, lockWait)})
	}
	return all, nil
}

// parseAddresses reads those of arguments.
func parseAddresses(texts []string) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, text := range texts {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return nil, cni.ConfigErrorf("address: %q is none; write it like 10.24.0.7", text)
		}
		all = append(all, address.Unmap())
	}
	return all, nil
}

// named says of which network an error is.
func named(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("network %s: %w", name, err)
}
