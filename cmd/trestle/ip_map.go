package main

import (
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/picture"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type ipMapOptions struct {
	*app
	networks []string
	svg      string
}

func newIPMapCommand(a *app) *cobra.Command {
	o := ipMapOptions{app: a}
	command := &cobra.Command{
		Use:   "map [NETWORK…]",
		Short: "Draw pools of addresses: what is free, leased, dead, reserved",
		Long: `Draw the pools of the networks, or of all: a cell for each address, or for a block of
addresses in large pools. Of an IPv6 subnet only the part with leases is drawn. Dead
addresses belong to containers whose namespace is provably gone: they are reused when
the pool is full, and freed by trestle gc. Reserved addresses are given to no container:
the gateway, the ends of the subnet, exclusions, addresses outside the range, and
reservations by hand.`,
		Example: `  trestle ip map
  trestle ip map web --svg web.svg`,
		RunE: func(command *cobra.Command, args []string) error {
			o.networks = args
			return o.run(a.printer(command))
		},
	}
	command.Flags().StringVar(&o.svg, "svg", "", "draw a picture into this `FILE`; - is standard output")
	return command
}

func (o ipMapOptions) run(p *ui.Printer) error {
	drawings := drawings{{"--svg", o.svg}}
	if err := drawings.check(p); err != nil {
		return err
	}
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	for _, name := range o.networks {
		n, ok := snapshot.NetworkOf(name)
		if !ok {
			return unknownNetwork(snapshot, name)
		}
		if len(n.Pools) == 0 {
			return cni.ConfigErrorf("network %q: it has no pool to draw, since it does not use host-local; trestle ls %s lists its addresses", name, name)
		}
	}
	maps := picture.NewPoolMaps(snapshot, o.networks...)
	if !drawings.none() {
		return drawings.write(p, func(string) (string, error) { return picture.PoolsSVG(maps), nil })
	}
	if p.JSON {
		return p.Document(maps)
	}
	if len(maps) == 0 {
		p.Printf("no pool: no network uses host-local\n")
	}
	for i, m := range maps {
		if i > 0 {
			p.Printf("\n")
		}
		p.Printf("%s", m.Text(p.Width, brush(p)))
	}
	return nil
}
