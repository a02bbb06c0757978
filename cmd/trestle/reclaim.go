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

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

// scope is what reclaim may take.
type scope int

// GC without a list of valid attachments takes what is provably dead; one with an empty
// list says that nobody is left on the network.
const (
	provablyDead scope = iota
	everything
)

// reclaim is GC of a network by those of its list's plugins that are Trestle's, whatever
// version the list says: 1.1.0 is the first that has GC. It is done in this process, and
// of each kind of state once, though several plugins make it: to look at a thousand
// attachments is nearly all that it costs. It goes on after a failure, and not where ctx
// has ended. asked are the plugins' names.
func reclaim(ctx context.Context, plugins []string, list network.List, s scope) (asked []string, err error) {
	var failed []error
	done := reclaimer{network: list.Name, plugins: plugins, scope: s, madeBy: map[[2]string]string{}}
	for _, entry := range list.Plugins {
		program, err := invoke.FindInPath(entry.Network.Type, plugins)
		if err != nil || !attach.IsOurs(program) {
			continue // a plugin that is told of no valid attachment may take it that there is none
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

// reclaimer is GC of a network by one plugin after the other.
type reclaimer struct {
	network string
	plugins []string // directories
	scope   scope
	madeBy  map[[2]string]string // kinds of state, and the plugin that has spoken for each
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
	asksIPAM := err == nil && attach.IsOurs(ipam) // which the plugin asks in its turn
	maps.DeleteFunc(keys, func(key string, _ any) bool {
		lower := strings.ToLower(key) // as plugins read it
		return lower == "ipam" && !asksIPAM || slices.Contains([]string{"name", "cniversion", validAttachments, "cni.dev/attachments"}, lower)
	})
	keys["name"], keys["cniVersion"] = c.network, "1.1.0"
	if c.scope == everything {
		keys[validAttachments] = []any{}
	}
	return json.Marshal(keys)
}

// validAttachments is GC's list, which has no place in a file: it says what there is now.
const validAttachments = "cni.dev/valid-attachments"
