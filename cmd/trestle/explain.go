package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/cmd/trestle/way"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type explainOptions struct {
	*app
	to, from, network, protocol string
	port                        uint16
}

func newExplainCommand(a *app) *cobra.Command {
	o := explainOptions{app: a}
	command := &cobra.Command{
		Use:   "explain CONTAINER [--to ADDRESS[:PORT] | --from ADDRESS --port PORT]",
		Short: "Follow a packet from or to a container, and say where it stops",
		Long: `Follow a packet from a container to an address, or from an address to a port that the
container has published: interface, routes, bridge, the rules of all programs with
their counters, masquerade, connections. It says where the packet would stop, and how
to fix that. Nothing is sent and nothing is changed. Without --to and --from it follows
both directions: out to an address of the Internet, and in to the published ports.

CONTAINER is a name, an id or its beginning, a pod, or an address.

Exit status: 0; 3 if the packet would stop.`,
		Example: `  trestle explain web --to 192.0.2.1:443
  trestle explain web --from 192.0.2.1 --port 8080`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: offer(a.containerNames, 0, 0),
		RunE:              func(command *cobra.Command, args []string) error { return o.run(a.printer(command), args[0]) },
	}
	flags := command.Flags()
	flags.StringVar(&o.to, "to", "", "destination of the container's packet; without a port it is a ping")
	flags.StringVar(&o.from, "from", "", "source address of a client of the published port")
	flags.Uint16Var(&o.port, "port", 0, "the host's port, with --from")
	flags.StringVar(&o.protocol, "protocol", "tcp", "tcp or udp")
	flags.StringVar(&o.network, "network", "", "which of the container's networks")
	return command
}

// question is what the flags ask for, checked.
type question struct {
	to   netip.AddrPort
	from netip.Addr
}

func (o explainOptions) question() (q question, err error) {
	if o.protocol != "tcp" && o.protocol != "udp" {
		return q, cni.ConfigErrorf("--protocol: %q is neither tcp nor udp", o.protocol)
	}
	if o.to != "" && o.from != "" {
		return q, cni.ConfigErrorf("--to, --from: use only one of them")
	}
	if o.from == "" && o.port != 0 {
		return q, cni.ConfigErrorf("--port: it goes with --from; a port to send to is written --to ADDRESS:PORT")
	}
	if o.to != "" {
		if q.to, err = parseEnd(o.to); err != nil {
			return q, cni.ConfigErrorf("--to: %q is neither an address nor ADDRESS:PORT; write it like 192.0.2.1:443 or [2001:db8::1]:443", o.to)
		}
	}
	if o.from != "" {
		if q.from, err = netip.ParseAddr(o.from); err != nil {
			return q, cni.ConfigErrorf("--from: %q is not an address", o.from)
		}
		if o.port == 0 {
			return q, cni.ConfigErrorf("--port: missing; give the host port that %s connects to", o.from)
		}
	}
	return q, nil
}

func parseEnd(text string) (netip.AddrPort, error) {
	if address, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(address.Unmap(), 0), nil
	}
	return netip.ParseAddrPort(text)
}

func (o explainOptions) run(p *ui.Printer, container string) error {
	q, err := o.question()
	if err != nil {
		return err
	}
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	attachments, err := attachmentsOf(snapshot, container, o.network)
	if err != nil {
		return err
	}
	host, problem := way.Open(snapshot)
	note(p, problem)
	defer host.Close()
	ways := o.follow(host, attachments, q)
	if p.JSON {
		if err := p.Document(ways); err != nil {
			return err
		}
	}
	var stopped bool
	for i, w := range ways {
		if !p.JSON {
			if i > 0 {
				p.Printf("\n")
			}
			printWay(p, w)
		}
		stopped = stopped || w.State == way.Stops
	}
	if stopped {
		return errFound
	}
	return nil
}

// attachmentsOf are the attachments of one container, on the network if one is named.
func attachmentsOf(snapshot *inventory.Snapshot, container, network string) ([]inventory.Attachment, error) {
	all := snapshot.Of(container)
	if len(all) == 0 {
		return nil, cni.ConfigErrorf("container %q: no container with that name is on a network; see trestle ls", container)
	}
	var of []inventory.Attachment
	var networks []string
	for _, a := range all {
		if a.Container != all[0].Container {
			return nil, cni.ConfigErrorf("container %q: it may be %s or %s; give more of its name", container, all[0].Container, a.Container)
		}
		networks = append(networks, a.Network)
		if network == "" || network == a.Network {
			of = append(of, a)
		}
	}
	if len(of) == 0 {
		return nil, cni.ConfigErrorf("--network: %s is not on %q, but on %s", all[0].Container, network, sentence(networks))
	}
	return of, nil
}

// somewhere stands for an address in the Internet: one for documentation (RFC 5737, RFC 3849),
// by whether it is IPv4.
var somewhere = map[bool]netip.Addr{true: netip.MustParseAddr("203.0.113.1"), false: netip.MustParseAddr("2001:db8:ffff::1")}

func (o explainOptions) follow(host *way.Host, attachments []inventory.Attachment, q question) []way.Way {
	switch {
	case q.to.IsValid():
		return []way.Way{out(host, attachments, q.to, o.protocol)}
	case q.from.IsValid():
		for _, a := range attachments {
			for _, port := range a.Ports {
				if port.Host.Port() == o.port && port.Protocol == o.protocol {
					return []way.Way{host.In(a, q.from, o.port, o.protocol)}
				}
			}
		}
		return []way.Way{host.In(attachments[0], q.from, o.port, o.protocol)}
	}
	return o.both(host, attachments)
}

// out is the way of a packet from the container. Of several networks it leaves by the one to which
// the container's route leads: on the others it stops earlier.
func out(host *way.Host, attachments []inventory.Attachment, to netip.AddrPort, protocol string) way.Way {
	best := host.Out(attachments[0], to, protocol)
	for _, a := range attachments[1:] {
		if other := host.Out(a, to, protocol); best.State == way.Stops && len(other.Stations) > len(best.Stations) {
			best = other
		}
	}
	return best
}

// both are the ways out, one in each family, and the ways in to each published port.
func (o explainOptions) both(host *way.Host, attachments []inventory.Attachment) []way.Way {
	ways := []way.Way{}
	for _, is4 := range []bool{true, false} {
		of := slices.DeleteFunc(slices.Clone(attachments), func(a inventory.Attachment) bool {
			return !slices.ContainsFunc(a.Addresses, func(address netip.Addr) bool { return address.Is4() == is4 })
		})
		if len(of) > 0 {
			ways = append(ways, out(host, of, netip.AddrPortFrom(somewhere[is4], 443), "tcp"))
		}
	}
	for _, a := range attachments {
		for _, port := range a.Ports {
			ways = append(ways, host.In(a, somewhere[port.Host.Addr().Is4()], port.Host.Port(), port.Protocol))
		}
	}
	return ways
}

func printWay(p *ui.Printer, w way.Way) {
	from, to := end(w.From), end(w.To)
	if w.From.IsValid() && w.To.IsValid() {
		p.Printf("%s, %s of network %s, from %s to %s\n", w.Protocol, p.Paint(ui.Strong, ui.Short(w.Container)), w.Network, from, to)
	} else {
		p.Printf("%s, %s of network %s\n", w.Protocol, p.Paint(ui.Strong, ui.Short(w.Container)), w.Network)
	}
	tones := map[way.State]ui.Tone{way.Passes: ui.Good, way.Maybe: ui.Warning, way.Stops: ui.Bad}
	const left = "                      "
	for _, s := range w.Stations {
		text := strings.TrimPrefix(p.Wrap(left, s.Text), left)
		p.Printf("%s %-15s %s", p.Paint(tones[s.State], fmt.Sprintf("%-5s", s.State)), s.Name, text)
		for _, step := range s.Rules {
			p.Printf("%s", p.Wrap(left+"  ", describeStep(step)))
		}
		if s.Command != "" && s.State != way.Passes {
			p.Printf("%s%s %s\n", left, p.Paint(ui.Faint, "see:"), s.Command)
		}
	}
	verdicts := map[way.State]string{way.Passes: "it gets there", way.Maybe: "it gets there, if the stations marked maybe let it pass", way.Stops: "it stops there"}
	p.Printf("%s\n", p.Paint(tones[w.State], verdicts[w.State]))
}

func describeStep(s rules.Step) string {
	text := fmt.Sprintf("%s %s: %s", s.Table, s.Chain, s.Rule)
	if s.Maybe {
		text += " (may match)"
	}
	if s.Counted {
		text += fmt.Sprintf(" (%s, %s)", counted(int(s.Packets), "packet"), ui.Bytes(s.Bytes))
	}
	return text
}

func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
