package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// identify is an error if another host is alive with this one's id or has published its
// WireGuard key, or if this host has no subnet yet and cannot be in the network (checkHost).
func (a *agent) identify(ctx context.Context, st store) error {
	s := &a.member.State
	view, err := st.Get(ctx, cluster.KeyConfig, cluster.PrefixAlive+s.ID, cluster.PrefixNodes+s.ID)
	if err != nil {
		return err
	}
	if value, ok := view.Keys[cluster.PrefixAlive+s.ID]; ok {
		if err := a.checkClone(value.Data); err != nil {
			return err
		}
	}
	if err := a.checkOutdated(view); err != nil {
		return err
	}
	if err := a.checkKey(ctx, st, view); err != nil {
		return err
	}
	value, ok := view.Keys[cluster.KeyConfig]
	if !ok || len(s.Claims) > 0 {
		return nil
	}
	config, err := cluster.ParseConfig(value.Data)
	if err != nil {
		return err
	}
	return checkHost(config)
}

// checkOutdated is an error where this agent is known to be too old for the cluster, and has
// no subnet to keep: until the configuration changes there is nothing more to ask for.
func (a *agent) checkOutdated(view cluster.View) error {
	s := a.member.State
	if len(s.Claims)+len(s.Pending) > 0 || a.member.Outdated() == nil {
		return nil
	}
	config, err := cluster.ParseConfig(view.Keys[cluster.KeyConfig].Data)
	if err != nil {
		return nil //nolint:nilerr // Reconcile says what is wrong with it
	}
	return config.CheckAgent(a.member.Version)
}

// checkKey refuses to publish a WireGuard key that another host has published before: peers
// would take this host for that one. A key that this host has published stays its own.
func (a *agent) checkKey(ctx context.Context, st store, view cluster.View) error {
	key, id := a.kernel.key.PublicKey().String(), a.member.State.ID
	if own, err := cluster.ParseNode(view.Keys[cluster.PrefixNodes+id].Data); err == nil && own.WGKey == key {
		return nil
	}
	all, err := st.Get(ctx, cluster.PrefixNodes)
	if err != nil {
		return err
	}
	for other, n := range cluster.NewListing(all).Nodes {
		if other != id && n.WGKey == key {
			return fmt.Errorf("the WireGuard key of this host is that of node %s (%s) at %v; %s; or, if that host is gone for good, trestle cluster release --node-is-dead %s",
				n.Name, other, n.Underlay, cluster.WayOutOfOneKey, n.Name)
		}
	}
	return nil
}

// checkHost is an error if this host cannot be in the network: because its kernel lacks what
// the backend needs, or it uses addresses of the pools for something else.
func checkHost(config cluster.Config) error {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return err
	}
	err = host.CheckBackend(overlay.Backend(config.Backend))
	if err := errors.Join(err, host.Close()); err != nil {
		return fmt.Errorf("backend %s: %w", config.Backend, err)
	}
	return checkOverlaps(config)
}

func checkOverlaps(config cluster.Config) error {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return err
	}
	defer func() { _ = host.Close() }() // only looked at
	found, err := host.Overlaps(config.Pools(), bridgesOf(config)...)
	if err != nil {
		return err
	}
	for _, o := range found {
		for _, n := range config.Networks {
			for _, p := range n.Pools() {
				if p.Prefix.Overlaps(o.Prefix) {
					return fmt.Errorf("pool %s of network %s overlaps %s on this host; choose another pool (trestle cluster config set), or remove that", p.Prefix, n.Name, o.What)
				}
			}
		}
	}
	return clashing(config.Pools())
}

// alive is the value of a host's sign of life.
type alive struct {
	Instance string         `json:"instance"`
	Underlay []netip.Prefix `json:"underlay"`
	Since    time.Time      `json:"since"`
}

// checkClone is an error if the sign of life under this host's id is another process's, at
// other addresses: then the disk was copied.
func (a *agent) checkClone(data []byte) error {
	var other alive
	if err := json.Unmarshal(data, &other); err != nil {
		return nil //nolint:nilerr // a sign of life that cannot be read proves nothing
	}
	mine := a.kernel.currentUplink().Addresses
	elsewhere := !slices.ContainsFunc(other.Underlay, func(p netip.Prefix) bool { return slices.Contains(mine, p) })
	if other.Instance != instance && elsewhere && len(other.Underlay) > 0 {
		a.refused.Store(true)
		if len(mine) == 0 {
			return fmt.Errorf("%w; a node with its id is alive at %v", errNoUplink, other.Underlay)
		}
		return fmt.Errorf("node %s is alive at %v, and this host is %v; if its disk was copied, trestle node reset-id makes this one a host of its own; "+
			"if it has just been started with another address, this ends by itself when the last sign of life is older than %v",
			a.member.State.ID, other.Underlay, mine, a.settings.Alive.Duration)
	}
	return nil
}

// instance distinguishes this process from others.
var instance = newNonce()

func (a *agent) signOfLife() []byte {
	data, err := json.Marshal(alive{
		Instance: instance,
		Underlay: a.kernel.currentUplink().Addresses,
		Since:    time.Now().UTC(),
	})
	if err != nil {
		return []byte("{}")
	}
	return data
}
