package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/registry"
)

// checkLayouts is an error if the tables or records on this host were made by a release whose
// layout or version of them differs from this command's: an older command would take what it
// does not know for faults, and a newer one would make what the plugins do not know. Commands
// that change rules or records in this process call it first.
func checkLayouts(ctx context.Context, plugins []string) error {
	store := record.Open(record.DefaultDir)
	layouts, err := nft.Layouts(store.Dir("nft"))
	if err != nil {
		return err
	}
	ours, older := registry.Layouts(), ""
	for _, part := range slices.Sorted(maps.Keys(layouts)) {
		number := layouts[part]
		if number > ours[part] {
			return olderThan(fmt.Sprintf("rules of nftables (layout %q)", fmt.Sprint(part, " ", number)))
		}
		if number < ours[part] {
			older = fmt.Sprint(part, " ", number)
		}
	}
	version, err := store.LatestVersion()
	if err != nil {
		return err
	}
	if version > record.Version {
		return olderThan(fmt.Sprintf("records in %s (version %d)", record.DefaultDir, version))
	}
	if older == "" {
		return nil
	}
	return olderPlugins(ctx, plugins, older)
}

func olderThan(what string) error {
	return cni.ConflictErrorf("this trestle is of release %s, and older than the plugins that made the %s: it would take what it does not know for faults; use the trestle of their release (trestle status shows both). Nothing was changed", release, what)
}

// olderPlugins is an error if plugins of another release, which made the older layout, are
// still installed. If they have been replaced, the caller may convert tables as an ADD does.
func olderPlugins(ctx context.Context, dirs []string, layout string) error {
	all, err := programs.Read(dirs)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(registry.Plugins()))
	all.Identify(ctx, names)
	for _, name := range names {
		if p, ok := all.Find(name); ok && p.Suite == programs.Trestle && p.Version != release {
			return cni.ConflictErrorf("%s is of release %s, and made rules of nftables (layout %q) that are older than those of this trestle, release %s, which it would not know again; use the trestle of its release, or replace the plugins (make install). Nothing was changed", p.Path, p.Version, layout, release)
		}
	}
	return nil
}
