package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

// scope is what reclaim may remove.
type scope int

// provablyDead runs GC without a list of valid attachments, which removes what is provably
// dead; everything runs it with an empty list, which says that nothing on the network is valid.
const (
	provablyDead scope = iota
	everything
)

// reclaim runs GC on a network, with those plugins of its list that are Trestle's. It is
// version 1.1.0's GC, whatever version the list has. It runs in this process, and only once
// for each kind of state, even if several plugins make it: nearly all of its cost is to look
// at each attachment. It goes on after a failure, but not after ctx has ended. asked are the
// plugins' names.
func reclaim(ctx context.Context, plugins []string, list network.List, s scope) (asked []string, err error) {
	var failed []error
	done := reclaimer{network: list.Name, plugins: plugins, scope: s, madeBy: map[[2]string]string{}}
	for _, entry := range list.Plugins {
		program, err := invoke.FindInPath(entry.Network.Type, plugins)
		if err != nil || !programs.IsOurs(program) {
			continue // another suite's GC may take a missing list of valid attachments for an empty one
		}
		if ctx.Err() != nil {
			return asked, errors.Join(append(failed, fmt.Errorf("%s: %s: %w", list.File, entry.Network.Type, ctx.Err()))...)
		}
		if err := done.by(entry); err != nil {
			failed = append(failed, fmt.Errorf("%s: %s: %w", list.File, entry.Network.Type, err))
		}
		asked = append(asked, entry.Network.Type)
	}
	return asked, errors.Join(failed...)
}

// reclaimer runs GC on a network, one plugin after the other.
type reclaimer struct {
	network string
	plugins []string // directories
	scope   scope
	madeBy  map[[2]string]string // the plugin that collects each kind of state
}

func (c reclaimer) by(entry *libcni.PluginConfig) error {
	plugin, ok := registry.Named(entry.Network.Type)
	if !ok {
		return cni.ConfigErrorf("type: %q does not say which of Trestle's plugins it is", entry.Network.Type)
	}
	config, err := c.config(entry)
	if err != nil {
		return err
	}
	r, err := cni.NewGC(config, c.plugins)
	if err != nil {
		return err
	}
	var left []cni.State
	for _, state := range plugin.States {
		kind := [2]string{state.Package, state.What}
		if by := c.madeBy[kind]; by == "" || by == plugin.Name {
			c.madeBy[kind], left = plugin.Name, append(left, state)
		}
	}
	plugin.States = left
	return plugin.GC(r)
}

func (c reclaimer) config(entry *libcni.PluginConfig) ([]byte, error) {
	keys := map[string]any{}
	if err := json.Unmarshal(entry.Bytes, &keys); err != nil {
		return nil, err
	}
	ipam, err := invoke.FindInPath(entry.Network.IPAM.Type, c.plugins)
	asksIPAM := err == nil && programs.IsOurs(ipam) // then the plugin delegates GC to it
	maps.DeleteFunc(keys, func(key string, _ any) bool {
		lower := strings.ToLower(key) // plugins ignore case
		return lower == "ipam" && !asksIPAM || slices.Contains([]string{"name", "cniversion", validAttachments, "cni.dev/attachments"}, lower)
	})
	keys["name"], keys["cniVersion"] = c.network, "1.1.0"
	if c.scope == everything {
		keys[validAttachments] = []any{}
	}
	return json.Marshal(keys)
}

// validAttachments is the key of GC's list. A list that stands in the file would not be current.
const validAttachments = "cni.dev/valid-attachments"
