package main

import (
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/picture"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/cmd/trestle/way"
)

type topologyOptions struct {
	*app
	networks       []string
	all            bool
	svg, dot, html string
}

func newTopologyCommand(a *app) *cobra.Command {
	o := topologyOptions{app: a}
	command := &cobra.Command{
		Use:   "topology [NETWORK…]",
		Short: "Draw the host: uplinks, bridges, and the containers on them",
		Long: `Draw the host's uplinks and bridges, the containers on them with both ends of their
links, their addresses and published ports, and VLANs: as a tree, or into files, as a
picture (--svg), for Graphviz (--dot), or as a page for a browser with search and
details (--html), which needs nothing but itself. FILE may be "-", standard output.
Tree, picture and page also show the chains of nftables and iptables that packets pass.

With NETWORK only these networks are drawn. On a bridge with many containers the tree
shows some, or counts them by the namespace of their pods, unless --all is given; the
files show each.`,
		Example: `  trestle topology
  trestle topology web --all
  trestle topology --html host.html && xdg-open host.html
  trestle topology --dot - | dot -Tpdf >host.pdf`,
		RunE: func(command *cobra.Command, args []string) error {
			o.networks = args
			return o.run(a.printer(command))
		},
	}
	flags := command.Flags()
	flags.BoolVar(&o.all, "all", false, "show each container in the tree, however many there are")
	flags.StringVar(&o.svg, "svg", "", "draw a picture into this `FILE`")
	flags.StringVar(&o.dot, "dot", "", "write a graph for Graphviz into this `FILE`")
	flags.StringVar(&o.html, "html", "", "write a page for a browser into this `FILE`")
	return command
}

func (o topologyOptions) run(p *ui.Printer) error {
	drawings := drawings{{"--svg", o.svg}, {"--dot", o.dot}, {"--html", o.html}}
	if err := drawings.check(p); err != nil {
		return err
	}
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	if _, err := onNetworks(snapshot, o.networks); err != nil {
		return err
	}
	topology := picture.NewTopology(snapshot, o.networks...)
	if len(o.networks) == 0 {
		topology.Chains = chains(p, snapshot)
	}
	if drawings.none() {
		if p.JSON {
			return p.Document(topology)
		}
		p.Printf("%s", topology.Tree(picture.TreeOptions{Width: p.Width, All: o.all, Paint: brush(p)}))
		return nil
	}
	return drawings.write(p, func(flag string) (string, error) {
		switch flag {
		case "--svg":
			return topology.SVG(), nil
		case "--dot":
			return topology.DOT(), nil
		default:
			return picture.Page(topology, snapshot.Time)
		}
	})
}

// chains are the chains of all programs, in the order in which packets pass them.
func chains(p *ui.Printer, snapshot *inventory.Snapshot) []picture.Chain {
	host, problem := way.Open(snapshot)
	note(p, problem) // what was read is shown
	defer host.Close()
	var all []picture.Chain
	for _, frames := range []bool{true, false} {
		for _, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
			name := hook
			if frames {
				name += " of frames"
			}
			for _, b := range host.Rules.At(hook, frames) {
				all = append(all, picture.Chain{Hook: name, Table: b.Table, Name: b.Chain, Program: b.Program, Drops: b.Drops})
			}
		}
	}
	return all
}

// brush paints text in picture's tones.
func brush(p *ui.Printer) func(picture.Tone, string) string {
	tones := map[picture.Tone]ui.Tone{
		picture.Good: ui.Good, picture.Warning: ui.Warning, picture.Bad: ui.Bad, picture.Faint: ui.Faint, picture.Strong: ui.Strong,
	}
	return func(tone picture.Tone, text string) string { return p.Paint(tones[tone], text) }
}
