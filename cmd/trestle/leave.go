package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/nftables"
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/registry"
)

type leaveOptions struct {
	*app
	dryRun bool
}

func newLeaveCommand(a *app) *cobra.Command {
	o := leaveOptions{app: a}
	command := &cobra.Command{
		Use:   "leave",
		Short: "After going back to other plugins, remove what only Trestle could",
		Long: `When a node has gone back to the reference plugins, and the last container that
Trestle attached is gone, remove what those plugins do not know: nftables tables with
masquerade, ports and policies, records, unused bridges that Trestle made, and the
index beside the leases. It refuses while runtimes still run Trestle's plugins, or
while one of Trestle's containers is alive. Leases and links of other plugins'
containers stay. See docs/switching-over.md.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return o.run(command.Context(), a.printer(command))
		},
	}
	command.Flags().BoolVar(&o.dryRun, "dry-run", false, "say whether it can be done, and what would be removed; change nothing")
	return command
}

// leaving is the answer.
type leaving struct {
	Networks []string `json:"networks"`
	Removed  []string `json:"removed"`
}

func (o leaveOptions) run(ctx context.Context, p *ui.Printer) error {
	if !o.dryRun {
		if err := understood(ctx, o.plugins); err != nil {
			return err
		}
		o.tidy(ctx, p)
	}
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	if err := o.mayLeave(snapshot); err != nil {
		return err
	}
	answer := leaving{Networks: []string{}, Removed: remains(snapshot)}
	var failed []error
	for _, n := range snapshot.Networks {
		answer.Networks = append(answer.Networks, n.Name)
		if !o.dryRun {
			failed = append(failed, named(n.Name, forget(n)))
		}
	}
	if !o.dryRun {
		after, err := o.take(p)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		failed = append(failed, removeRest(after))
		answer.Removed = slices.DeleteFunc(answer.Removed, func(what string) bool { return slices.Contains(remains(after), what) })
	}
	if p.JSON {
		return errors.Join(append(failed, p.Document(answer))...)
	}
	what := "removed"
	if o.dryRun {
		what = "would remove"
	}
	for _, thing := range answer.Removed {
		p.Printf("%s %s\n", what, thing)
	}
	return errors.Join(failed...)
}

// mayLeave is an error while runtimes execute our plugins, or a container of ours lives.
func (o leaveOptions) mayLeave(snapshot *inventory.Snapshot) error {
	for _, dir := range o.plugins {
		for name := range registry.Plugins() {
			if path := filepath.Join(dir, name); attach.IsOurs(path) {
				return cni.ConflictErrorf("%s is Trestle's, and runtimes execute it; put the other plugins there first (docs/switching-over.md)", path)
			}
		}
	}
	var alive []string
	for _, a := range snapshot.Attachments {
		if a.ByTrestle && a.State != inventory.Dead {
			alive = append(alive, a.Network+"/"+called(a))
		}
	}
	if len(alive) > 0 {
		return cni.ConflictErrorf("%s: attached by Trestle, and alive or not proved dead; stop these containers first", sentence(alive))
	}
	return nil
}

// remains lists what Trestle has on the host, for people.
func remains(snapshot *inventory.Snapshot) []string {
	things := []string{}
	for _, l := range snapshot.Links {
		if l.Ours {
			things = append(things, l.Kind+" "+l.Name)
		}
	}
	for _, e := range snapshot.Elements {
		if table := "nftables table " + e.Table; !slices.Contains(things, table) {
			things = append(things, table)
		}
	}
	for _, path := range ownFiles(snapshot) {
		if _, err := os.Stat(path); err == nil {
			things = append(things, path)
		}
	}
	return things
}

// ownFiles are the directories that nobody but Trestle reads.
func ownFiles(snapshot *inventory.Snapshot) []string {
	paths := []string{record.DefaultDir}
	for _, store := range mustStores(snapshot) {
		paths = append(paths, filepath.Join(store.dir, store.network, ".trestle"))
	}
	return append(paths, filepath.Join(inventory.DefaultSource().Leases, ".trestle"))
}

func mustStores(snapshot *inventory.Snapshot) []leaseStore {
	all, _ := stores(snapshot, nil) // fails for names only, and there are none
	return all
}

// forget has each kind of state taken back as if nobody were on the network; but for
// leases and settings, which other plugins' containers have in the same places: of these
// what is proved dead goes.
func forget(n inventory.Network) error {
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": n.Name, "type": "bridge", "bridge": n.Bridge, "cni.dev/valid-attachments": []any{},
	})
	if err != nil {
		return err
	}
	r, err := cni.NewGC(config, nil)
	if err != nil {
		return err
	}
	valid, err := r.Valid()
	if err != nil {
		return err
	}
	var failed []error
	for _, state := range registry.States() {
		if state.Package == "pkg/ipam" || state.Package == "pkg/tuning" {
			continue
		}
		if err := state.GC(r, valid); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", state.What, err))
		}
	}
	return errors.Join(failed...)
}

// removeRest removes what belongs to no network.
func removeRest(snapshot *inventory.Snapshot) error {
	conn := nft.Open(record.Open(record.DefaultDir).Dir("nft"))
	var failed []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		failed = append(failed, conn.DeleteTable(nft.Table{Family: family, Name: "trestle"}))
	}
	conn.Close()
	for _, path := range ownFiles(snapshot) {
		failed = append(failed, os.RemoveAll(path))
	}
	return errors.Join(failed...)
}
