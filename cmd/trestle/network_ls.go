package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

type networkLsOptions struct{ *app }

func newNetworkLsCommand(a *app) *cobra.Command {
	o := networkLsOptions{app: a}
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List networks, and how full they are",
		Long: `List the networks that runtimes read, and those of which only leases, records or links
are left: these have no file.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return o.run(a.printer(command)) },
	}
}

func (o networkLsOptions) run(p *ui.Printer) error {
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	if p.JSON {
		networks := snapshot.Networks
		if networks == nil {
			networks = []inventory.Network{}
		}
		return p.Document(networks)
	}
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Least: 8},
		{Title: "DRIVER", Optional: true},
		{Title: "BRIDGE"},
		{Title: "SUBNET", Least: 15, Dear: true},
		{Title: "USED", Right: true},
		{Title: "OF", Right: true},
		{Title: "CONTAINERS", Right: true},
		{Title: "FILE", Least: 10, Optional: true},
	}}
	for _, n := range snapshot.Networks {
		var subnets, used, size []string
		for _, pool := range n.Pools {
			subnets = append(subnets, pool.Subnet.String())
			used = append(used, leased(pool))
			size = append(size, count(pool.Size))
		}
		t.Add(n.Name, n.Driver, n.Bridge, ui.List(subnets...), ui.List(used...), ui.List(size...), fmt.Sprint(n.Attachments), strings.TrimPrefix(filepath.Base(n.File), "."))
	}
	return p.Table(t)
}

// leased is how many addresses of the pool are leased, as it is printed: "?" if that is not known.
func leased(pool inventory.Pool) string {
	if pool.Unread {
		return "?"
	}
	return fmt.Sprint(pool.Used)
}

// count is a number of addresses as it is printed: "∞" for an IPv6 subnet.
func count(n uint64) string {
	if n > math.MaxUint32 {
		return "∞"
	}
	return fmt.Sprint(n)
}
