package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/container"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type lsOptions struct {
	*app
	networks []string
	watch    bool
	hosts    bool
	interval time.Duration
}

func newLsCommand(a *app) *cobra.Command {
	o := lsOptions{app: a}
	command := &cobra.Command{
		Use:     "ls [NETWORK…]",
		Aliases: []string{"ps"},
		Short:   "List attachments: which container is on which network, with what",
		Long: `List attachments: who is on which network, with which addresses, published ports and
traffic, and whether its network namespace is alive. It combines leases, links, records
and the caches of runtimes, whichever runtime and suite made them. For a container of
trestle run --detach it names the file of --log.

If the host is in a network over several hosts, the other hosts follow: their subnets,
how they are reached, and when they last gave a sign of life, as trestle-node has noted
it. --hosts lists only hosts, and all of them.`,
		Example: `  trestle ls
  trestle ls --json | jq '.[] | select(.state == "dead")'`,
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE: func(command *cobra.Command, args []string) error {
			o.networks = args
			switch {
			case o.hosts && o.watch:
				return cni.ConfigErrorf("--hosts: it does not go with --watch, which shows traffic; leave one of them out")
			case !o.watch && command.Flags().Changed("interval"):
				return cni.ConfigErrorf("--interval: it goes with --watch alone; give that, too, or leave it out")
			case o.watch:
				return o.runWatch(command.Context(), a.printer(command))
			case o.hosts:
				return o.runHosts(a.printer(command))
			}
			return o.run(a.printer(command))
		},
	}
	command.Flags().BoolVarP(&o.watch, "watch", "w", false, "look again and again, and show traffic per second")
	command.Flags().BoolVar(&o.hosts, "hosts", false, "list the other hosts of networks over several hosts instead")
	command.Flags().DurationVar(&o.interval, "interval", 2*time.Second, "with --watch, how often")
	return command
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
		return p.Document(withLogs(attachments))
	}
	if err := p.Table(attachmentTable(p, snapshot, attachments, nil)); err != nil {
		return err
	}
	return o.printHosts(p, snapshot)
}

// runWatch shows the list again and again, until it is interrupted.
func (o lsOptions) runWatch(ctx context.Context, p *ui.Printer) error {
	const least = 100 * time.Millisecond
	if o.interval < least {
		return cni.ConfigErrorf("--interval: %v is too short; use %v or more", o.interval, least)
	}
	ticker := time.NewTicker(o.interval)
	defer ticker.Stop()
	var before *inventory.Snapshot
	for {
		snapshot, err := o.take(p)
		if err != nil {
			return err
		}
		attachments, err := onNetworks(snapshot, o.networks)
		if err != nil {
			return err
		}
		p.Screen()
		if err := o.show(p, snapshot, attachments, ratesSince(before, snapshot)); err != nil {
			return err
		}
		before = snapshot
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (o lsOptions) show(p *ui.Printer, snapshot *inventory.Snapshot, attachments []inventory.Attachment, per rates) error {
	if !p.JSON {
		return p.Table(attachmentTable(p, snapshot, attachments, per))
	}
	lines, logs := []rateLine{}, container.Logs()
	for _, a := range attachments {
		lines = append(lines, rateLine{listed{a, logs[a.Container]}, per[keyOf(a)]})
	}
	return p.Document(lines)
}

// rate is traffic per second, as the container sees it.
type rate struct {
	Rx uint64 `json:"rxBytesPerSecond"`
	Tx uint64 `json:"txBytesPerSecond"`
}

type rateLine struct {
	listed
	rate
}

// listed is an attachment with its container's log file, if trestle run made one.
type listed struct {
	inventory.Attachment
	Log string `json:"log,omitempty"`
}

func withLogs(attachments []inventory.Attachment) []listed {
	all, logs := []listed{}, container.Logs()
	for _, a := range attachments {
		all = append(all, listed{a, logs[a.Container]})
	}
	return all
}

// rates are the rates by keyOf. An attachment that was not there before has none.
type rates map[string]rate

func keyOf(a inventory.Attachment) string { return a.Network + "/" + a.Container + "/" + a.IfName }

func ratesSince(before, now *inventory.Snapshot) rates {
	per := rates{}
	if before == nil {
		return per
	}
	seconds := now.Time.Sub(before.Time).Seconds()
	had := map[string]inventory.Traffic{}
	for _, a := range before.Attachments {
		had[keyOf(a)] = a.Traffic
	}
	for _, a := range now.Attachments {
		old, ok := had[keyOf(a)]
		if !ok || seconds <= 0 || old.RxBytes > a.Traffic.RxBytes || old.TxBytes > a.Traffic.TxBytes {
			continue // another interface with that name
		}
		per[keyOf(a)] = rate{
			Rx: uint64(float64(a.Traffic.RxBytes-old.RxBytes) / seconds),
			Tx: uint64(float64(a.Traffic.TxBytes-old.TxBytes) / seconds),
		}
	}
	return per
}

// onNetworks are the attachments to the named networks, or all if none is named; never nil,
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
	var names []string
	for _, n := range snapshot.Networks {
		names = append(names, n.Name)
	}
	return network.Unknown(name, names)
}

// attachmentTable is the table of attachments, with traffic per second if per is not nil, and
// total traffic otherwise.
func attachmentTable(p *ui.Printer, snapshot *inventory.Snapshot, attachments []inventory.Attachment, per rates) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NETWORK", Least: 8},
		{Title: "CONTAINER", Least: 10},
		{Title: "IFNAME", Optional: true},
		{Title: "ADDRESS", Least: 15, Dear: true},
		{Title: "PORTS", Least: 10, Dear: true},
		{Title: "AGE"},
		{Title: "NETNS"},
		{Title: "RX", Right: true, Optional: per == nil},
		{Title: "TX", Right: true, Optional: per == nil},
		{Title: "LOG", Optional: true},
	}}
	logs := container.Logs()
	if per != nil {
		t.Columns[7].Title, t.Columns[8].Title = "RX/s", "TX/s"
	}
	for _, a := range attachments {
		row := []string{
			a.Network, a.Called(), a.IfName, ui.List(texts(a.Addresses)...), ui.List(texts(a.Published())...),
			ui.Age(a.Since, snapshot.Time), paintState(p, a.State), "", "", logs[a.Container],
		}
		switch speed, known := per[keyOf(a)]; {
		case !a.Evidence.Link || per != nil && !known:
		case per != nil:
			row[7], row[8] = ui.Bytes(speed.Rx), ui.Bytes(speed.Tx)
		default:
			row[7], row[8] = ui.Bytes(a.Traffic.RxBytes), ui.Bytes(a.Traffic.TxBytes)
		}
		t.Add(row...)
	}
	return t
}

func paintState(p *ui.Printer, s inventory.State) string {
	tones := map[inventory.State]ui.Tone{inventory.Alive: ui.Good, inventory.Dead: ui.Bad, inventory.Unknown: ui.Warning}
	return p.Paint(tones[s], string(s))
}
