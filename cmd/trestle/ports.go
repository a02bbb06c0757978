package main

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

type portsOptions struct{ *app }

func newPortsCommand(a *app) *cobra.Command {
	o := portsOptions{app: a}
	return &cobra.Command{
		Use:               "ports [NETWORK…]",
		Short:             "List published ports, and the containers that they lead to",
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE:              func(command *cobra.Command, args []string) error { return o.run(a.printer(command), args) },
	}
}

// portLine is a port with its attachment.
type portLine struct {
	inventory.Port
	Network string          `json:"network"`
	ID      string          `json:"id"`
	IfName  string          `json:"ifname"`
	State   inventory.State `json:"state"`

	called string
}

func (o portsOptions) run(p *ui.Printer, networks []string) error {
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	attachments, err := onNetworks(snapshot, networks)
	if err != nil {
		return err
	}
	lines := []portLine{}
	for _, a := range attachments {
		for _, port := range a.Ports {
			lines = append(lines, portLine{port, a.Network, a.Container, a.IfName, a.State, called(a)})
		}
	}
	slices.SortFunc(lines, func(x, y portLine) int {
		return cmp.Or(cmp.Compare(x.Host.Port(), y.Host.Port()), cmp.Compare(x.Protocol, y.Protocol), x.Host.Compare(y.Host), cmp.Compare(x.ID, y.ID))
	})
	if p.JSON {
		return p.Document(lines)
	}
	t := ui.Table{Columns: []ui.Column{
		{Title: "PORT", Right: true},
		{Title: "PROTOCOL"},
		{Title: "ON"},
		{Title: "TO", Least: 15, Dear: true},
		{Title: "CONTAINER", Least: 10},
		{Title: "NETWORK", Least: 8},
		{Title: "BACKEND", Optional: true},
		{Title: "NETNS"},
	}}
	for _, l := range lines {
		t.Add(strconv.Itoa(int(l.Host.Port())), l.Protocol, l.Host.Addr().String(), l.Container.String(), l.called, l.Network,
			l.Backend, paintState(p, l.State))
	}
	return p.Table(t)
}
