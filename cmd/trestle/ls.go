package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type lsOptions struct {
	*app
	networks []string
}

func newLsCommand(a *app) *cobra.Command {
	o := lsOptions{app: a}
	return &cobra.Command{
		Use:     "ls [NETWORK…]",
		Aliases: []string{"ps"},
		Short:   "List attachments: who is on which network, with what",
		Long: `List attachments: who is on which network, with which addresses, published ports and
traffic, and whether its network namespace is alive. It joins what leases, links,
records and the caches of runtimes tell, whichever runtime and suite made them.`,
		Example: `  trestle ls
  trestle ls --json | jq '.[] | select(.state == "dead")'`,
		RunE: func(command *cobra.Command, args []string) error {
			o.networks = args
			return o.run(a.printer(command))
		},
	}
}

func (o lsOptions) run(p *ui.Printer) error {
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	attachments, err := onNetworks(snapshot, o.networks)
	if err != nil {
		return err
	}
	if p.JSON {
		return p.Document(attachments)
	}
	return p.Table(attachmentTable(p, snapshot, attachments))
}

// onNetworks are the attachments to the networks, or all where none is named; never nil,
// so that JSON has an empty list.
func onNetworks(snapshot *inventory.Snapshot, names []string) ([]inventory.Attachment, error) {
	for _, name := range names {
		if _, ok := snapshot.NetworkOf(name); !ok {
			return nil, unknownNetwork(snapshot, name)
		}
	}
	all := []inventory.Attachment{}
	for _, a := range snapshot.Attachments {
		if len(names) == 0 || slices.Contains(names, a.Network) {
			all = append(all, a)
		}
	}
	return all, nil
}

func unknownNetwork(snapshot *inventory.Snapshot, name string) error {
	if len(snapshot.Networks) == 0 {
		return cni.ConfigErrorf("network %q: there is none; make one with trestle network create %s", name, name)
	}
	var names []string
	for _, n := range snapshot.Networks {
		names = append(names, n.Name)
	}
	return cni.ConfigErrorf("network %q: there is none of that name; there are %s", name, sentence(names))
}

func attachmentTable(p *ui.Printer, snapshot *inventory.Snapshot, attachments []inventory.Attachment) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NETWORK", Least: 8},
		{Title: "CONTAINER", Least: 10},
		{Title: "IFNAME"},
		{Title: "ADDRESS", Least: 15},
		{Title: "PORTS", Least: 10},
		{Title: "AGE"},
		{Title: "NETNS"},
		{Title: "RX", Right: true},
		{Title: "TX", Right: true},
	}}
	for _, a := range attachments {
		row := []string{
			a.Network, called(a), a.IfName, ui.List(texts(a.Addresses)...), ui.List(texts(a.Published())...),
			ui.Age(a.Since, snapshot.Time), paintState(p, a.State), "", "",
		}
		if a.Evidence.Link {
			row[7], row[8] = ui.Bytes(a.Traffic.RxBytes), ui.Bytes(a.Traffic.TxBytes)
		}
		t.Add(row...)
	}
	return t
}

// called is what people call the container.
func called(a inventory.Attachment) string {
	switch {
	case a.Pod != "":
		return a.Pod
	case a.Name != "":
		return a.Name
	}
	return ui.Short(a.Container)
}

func paintState(p *ui.Printer, s inventory.State) string {
	tones := map[inventory.State]ui.Tone{inventory.Alive: ui.Good, inventory.Dead: ui.Bad, inventory.Unknown: ui.Warning}
	return p.Paint(tones[s], string(s))
}
