package main

import (
	"errors"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/record"
)

type ipLsOptions struct{ *app }

func newIPLsCommand(a *app) *cobra.Command {
	o := ipLsOptions{app: a}
	return &cobra.Command{
		Use:     "ls [NETWORK…]",
		Aliases: []string{"list"},
		Short:   "List leased addresses",
		Long: `List leased addresses, network by network, as host-local's directories have them:
those that Trestle leased and those that host-local did. One without a container was
reserved by hand.`,
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE:              func(command *cobra.Command, args []string) error { return o.run(a.printer(command), args) },
	}
}

// leaseLine is a lease, as it is listed.
type leaseLine struct {
	Network   string          `json:"network"`
	Address   netip.Addr      `json:"address"`
	Container string          `json:"container,omitempty"`
	IfName    string          `json:"ifname,omitempty"`
	NetNS     string          `json:"netns,omitempty"`
	Since     time.Time       `json:"since,omitzero"`
	State     inventory.State `json:"state"`
}

func (o ipLsOptions) run(p *ui.Printer, networks []string) error {
	snapshot, all, err := o.takeStores(p, networks)
	if err != nil {
		return err
	}
	lines := []leaseLine{}
	var failed []error
	for _, store := range all {
		leases, err := store.Leases()
		failed = append(failed, named(store.network, err))
		for _, l := range leases {
			state := map[record.Life]inventory.State{record.Alive: inventory.Alive, record.Dead: inventory.Dead, record.Unknown: inventory.Unknown}[l.Life]
			lines = append(lines, leaseLine{store.network, l.Address, l.Owner.ContainerID, l.Owner.IfName, l.NetNS, l.Time, state})
		}
	}
	if p.JSON {
		return errors.Join(append(failed, p.Document(lines))...)
	}
	t := ui.Table{Columns: []ui.Column{
		{Title: "NETWORK", Least: 8}, {Title: "ADDRESS"}, {Title: "CONTAINER", Least: 10}, {Title: "IFNAME"}, {Title: "AGE"}, {Title: "NETNS"},
	}}
	for _, l := range lines {
		container := ui.Short(l.Container)
		if container == "" {
			container = "(reserved)"
		}
		t.Add(l.Network, l.Address.String(), container, l.IfName, ui.Age(l.Since, snapshot.Time), paintState(p, l.State))
	}
	return errors.Join(append(failed, p.Table(t))...)
}
