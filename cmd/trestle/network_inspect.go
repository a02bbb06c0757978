package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

type networkInspectOptions struct{ *app }

func newNetworkInspectCommand(a *app) *cobra.Command {
	o := networkInspectOptions{app: a}
	return &cobra.Command{
		Use:               "inspect NETWORK…",
		Short:             "Show everything about a network",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: offer(a.networkNames, 0, -1),
		RunE:              func(command *cobra.Command, args []string) error { return o.run(a.printer(command), args) },
	}
}

// inspection is a network with its attachments, and the content of its list.
type inspection struct {
	inventory.Network
	Members []inventory.Attachment `json:"members"`
	Config  json.RawMessage        `json:"config,omitempty"`
}

func (o networkInspectOptions) run(p *ui.Printer, names []string) error {
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	var all []inspection
	for _, name := range names {
		n, ok := snapshot.NetworkOf(name)
		if !ok {
			return unknownNetwork(snapshot, name)
		}
		one := inspection{Network: *n}
		if one.Members, err = onNetworks(snapshot, []string{name}); err != nil {
			return err
		}
		if n.File != "" {
			if one.Config, err = rawfile.Read(n.File); err != nil {
				return fmt.Errorf("read the network list: %w", err)
			}
		}
		all = append(all, one)
	}
	if p.JSON {
		return p.Document(all)
	}
	for i, one := range all {
		if i > 0 {
			p.Printf("\n")
		}
		if err := one.print(p, snapshot); err != nil {
			return err
		}
	}
	return nil
}

func (i inspection) print(p *ui.Printer, snapshot *inventory.Snapshot) error {
	line := func(key, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" {
			p.Printf("%s%*s%s\n", p.Paint(ui.Strong, key+":"), 16-len(key+":"), "", text)
		}
	}
	line("Name", "%s", i.Name)
	line("File", "%s", i.File)
	line("CNI version", "%s", i.CNIVersion)
	line("Plugins", "%s", strings.Join(i.Plugins, ", "))
	line("Bridge", "%s", i.Bridge)
	if i.MTU > 0 {
		line("MTU", "%d", i.MTU)
	}
	sets := len(i.PoolSets())
	for _, pool := range i.Pools {
		gateway := "no gateway"
		if pool.Gateway.IsValid() {
			gateway = "gateway " + pool.Gateway.String()
		}
		dead := ""
		if pool.Dead > 0 {
			dead = fmt.Sprintf(", %d of them by dead containers", pool.Dead)
		}
		set := ""
		if sets < len(i.Pools) { // else each pool is a set of its own
			set = fmt.Sprintf(", range set %d", pool.Set)
		}
		line("Subnet", "%s, %s, %s of %s leased%s%s", pool.Subnet, gateway, leased(pool), count(pool.Size), dead, set)
	}
	if len(i.Reserved) > 0 {
		line("Reserved", "%s", strings.Join(texts(i.Reserved), ", "))
	}
	line("Ingress policy", "%s", i.IngressPolicy)
	line("Masquerade", "%t", i.Masquerade)
	for _, key := range slices.Sorted(maps.Keys(i.Labels)) {
		line("Label", "%s=%s", key, i.Labels[key])
	}
	line("Containers", "%d", len(i.Members))
	if len(i.Members) == 0 {
		return nil
	}
	p.Printf("\n")
	return p.Table(attachmentTable(p, snapshot, i.Members, nil))
}
