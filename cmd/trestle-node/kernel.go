package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// kernel keeps this host's kernel configured as the state asks. It has a goroutine of its
// own, so that repairs do not wait for a store that does not answer.
type kernel struct {
	settings settings
	log      *slog.Logger
	board    *board

	mu     sync.Mutex
	want   wanted
	uplink overlay.Uplink
	wake   chan string   // the reason for the next comparison
	moved  chan struct{} // the uplink, or its MTU or addresses, have changed
	done   chan struct{} // closed after the first comparison
	// flushes are answered after the next comparison.
	flushes chan chan applied
	other   chan struct{} // the uplink is another device: listen to that
	// changed says that the kernel has changed, and not only what is wanted.
	changed atomic.Bool

	key      wgtypes.Key    // WireGuard's
	underlay []netip.Prefix // the addresses that were published before this start

	host *overlay.Host // used by the goroutine alone
	last overlay.State // what was applied last: others have made any difference from it
	mtu  int           // the MTU that containers' were last compared with
}

type applied struct {
	// inUse are bridges that stay when all of ours is removed, since containers are on them.
	inUse []string
	err   error
}

// wanted is what the kernel's configuration is planned from.
type wanted struct {
	id      string
	config  cluster.Config
	claims  []cluster.Owned
	lost    []cluster.Owned
	peers   []cluster.Node
	missing []string
	// ready says that the runtime may start containers; drained that it may start none.
	ready, drained bool
	// gone says that everything of ours is to be removed.
	gone bool
}

func newKernel(s settings, key wgtypes.Key, b *board, log *slog.Logger) *kernel {
	return &kernel{
		key:      key,
		settings: s,
		log:      log,
		board:    b,
		wake:     make(chan string, 1),
		moved:    make(chan struct{}, 1),
		done:     make(chan struct{}),
		other:    make(chan struct{}, 1),
		flushes:  make(chan chan applied),
	}
}

// set replaces what is wanted.
func (k *kernel) set(w wanted) {
	k.mu.Lock()
	k.want = w
	k.mu.Unlock()
	k.compare(forPeers)
}

// trust lets the runtime start containers in the claimed subnets.
func (k *kernel) trust(ctx context.Context) {
	k.mu.Lock()
	k.want.ready = len(k.want.claims) > 0 && !k.want.gone
	k.mu.Unlock()
	k.flush(ctx)
}

// flush waits until what was set has been applied, and returns the result.
func (k *kernel) flush(ctx context.Context) applied {
	done := make(chan applied, 1)
	select {
	case k.flushes <- done:
	case <-ctx.Done():
		return applied{err: ctx.Err()}
	}
	select {
	case b := <-done:
		return b
	case <-ctx.Done():
		return applied{err: ctx.Err()}
	}
}

// forPeers is the reason for a comparison after what is wanted has changed.
const forPeers = "peers"

// compare wakes the loop, which compares everything. why is for the log.
func (k *kernel) compare(why string) {
	if why != forPeers {
		k.changed.Store(true) // also if a comparison for the peers is pending
	}
	select {
	case k.wake <- why:
	default: // one is pending
	}
}

func (k *kernel) currentUplink() overlay.Uplink {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.uplink
}

func (k *kernel) pools() []netip.Prefix {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.want.config.Pools()
}

// debounceTime collects events that come together into one comparison.
const debounceTime = 50 * time.Millisecond

// run applies what is wanted when the kernel reports a change, when what is wanted has
// changed, and at each audit.
func (k *kernel) run(ctx context.Context) error {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return err
	}
	k.host = host
	host.SetKey(k.key)
	host.SetUnderlay(k.underlay)
	defer func() { _ = host.Close() }() // only sockets are closed
	k.apply("start")
	close(k.done)
	go k.listen(ctx)
	audit := time.NewTicker(k.settings.Audit.Duration)
	defer audit.Stop()
	for {
		why := "audit"
		var flushed chan applied
		select {
		case <-ctx.Done():
			return nil
		case <-audit.C:
		case flushed = <-k.flushes:
			why = forPeers
		case why = <-k.wake:
			if why != forPeers {
				pause(ctx, debounceTime)
			}
		}
		result := k.apply(why)
		if flushed != nil {
			flushed <- result
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (k *kernel) listen(ctx context.Context) {
	for ctx.Err() == nil {
		listening, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-k.other:
				stop()
			case <-listening.Done():
			}
		}()
		of := overlay.Interest{Uplink: k.currentUplink().Name, Pools: k.pools}
		if err := overlay.Events(listening, of, k.compare); err != nil {
			k.log.Warn("listen to the kernel, again", "error", err)
			pause(ctx, time.Second)
		}
		stop()
	}
}

// apply compares the kernel with what is wanted, changes what differs, and reports. why is
// what woke the loop. A difference from what was applied before counts as a repair.
func (k *kernel) apply(why string) applied {
	defer k.board.write(why == "audit") // an audit always writes: its time shows that the agent is alive
	// Finding the uplink reads all routes, so it is not done at each change of a peer.
	if changed := k.changed.Swap(false); changed || why != forPeers || len(k.currentUplink().Addresses) == 0 {
		k.findUplink()
	}
	k.mu.Lock()
	w, uplink := k.want, k.uplink
	k.mu.Unlock()
	if w.gone {
		result := k.remove(w)
		k.board.problem("kernel", problemsOf(result.err)...)
		return result
	}
	if w.config.ID == "" || len(w.claims)+len(w.lost) == 0 || len(uplink.Addresses) == 0 {
		k.report(w, overlay.State{}, nil, nil)
		return applied{}
	}
	self := k.selfOf(w, uplink)
	state, problems := overlay.Plan(self, peersOf(w.peers))
	have, err := k.host.Observe(state)
	if err == nil {
		changes := overlay.Diff(state, have)
		k.count(why, state, changes)
		err = k.host.Apply(changes)
		for dst, who := range have.Foreign {
			problems = append(problems, fmt.Sprintf("the route to %s is of protocol %s, and stays; delete it (ip route del %s), and ours is added", dst, who, dst))
		}
	}
	err = errors.Join(err, k.dropLost(w)) // whatever has failed before: they are another host's
	slices.Sort(problems)
	k.report(w, state, problems, err)
	if err == nil {
		k.last = state
	}
	if mtu := k.board.now().MTU; mtu != k.mtu || why == "audit" {
		k.mtu = mtu
		k.compareContainers(w, mtu)
	}
	return applied{err: err}
}

// compareContainers reports containers whose MTU is larger than the networks' is now. The
// kernel answers their packets that are too large with the right size (ICMP, packet too
// big), and most senders adapt.
func (k *kernel) compareContainers(w wanted, mtu int) {
	var found []string
	for _, bridge := range bridgesOf(w.config) {
		n, err := k.host.LargerPorts(bridge, mtu)
		if err != nil {
			found = append(found, err.Error())
		} else if n > 0 && mtu > 0 {
			found = append(found, fmt.Sprintf("containers on %s with a larger MTU than %d, the largest that all hosts take now: %d; "+
				"the kernel tells senders (ICMP), and those that ignore it must be restarted", bridge, mtu, n))
		}
	}
	k.board.problem("mtu", found...)
}

// remove removes what is ours: lists, routes, tunnel, rules, and bridges without containers.
// It goes on after a failure, and can be repeated.
func (k *kernel) remove(w wanted) (result applied) {
	result.err = errors.Join(withdrawConflists(allNetworks), k.host.Remove(overlay.MAC(w.id)))
	for _, name := range bridgesOf(w.config) {
		inUse, err := k.host.RemoveBridge(name)
		if result.err = errors.Join(result.err, err); inUse {
			result.inUse = append(result.inUse, name)
		}
	}
	return result
}

func problemsOf(err error) []string {
	if err == nil {
		return nil
	}
	return []string{err.Error()}
}

func (k *kernel) selfOf(w wanted, uplink overlay.Uplink) overlay.Self {
	self := overlay.Self{
		Pools: w.config.Pools(), Underlay: uplink.Addresses, Uplink: uplink.Name, MTU: uplink.MTU, MAC: overlay.MAC(w.id),
		Backend: overlay.Backend(w.config.Backend), VNI: w.config.VNI, Port: w.config.Port, NoTxChecksum: w.config.NoTxChecksum,
		NoIPv6: !overlay.HasIPv6(), Key: k.key.PublicKey().String(), NAT: k.settings.NAT,
	}
	for _, o := range w.claims {
		self.Subnets = append(self.Subnets, o.Subnet)
	}
	return self
}

func peersOf(nodes []cluster.Node) []overlay.Peer {
	var peers []overlay.Peer
	for _, n := range nodes {
		p := overlay.Peer{Name: n.Name, Underlay: n.Underlay, MTU: n.MTU, MAC: n.MAC, Key: n.WGKey, NAT: n.NAT}
		for _, o := range n.Subnets {
			p.Subnets = append(p.Subnets, o.Subnet)
		}
		peers = append(peers, p)
	}
	return peers
}

// findUplink finds the uplink. If there is none now, the last one counts, and the routes over
// it are kept: the kernel deletes those of a link that is gone.
func (k *kernel) findUplink() {
	var uplink overlay.Uplink
	var err error
	for _, way := range k.settings.uplinks(k.currentUplink().Name) {
		if uplink, err = k.host.FindUplink(way.device, way.addresses...); err == nil {
			break
		}
	}
	if err != nil {
		k.board.problem("uplink", err.Error())
		return
	}
	k.mu.Lock()
	before := k.uplink
	k.uplink = uplink
	k.mu.Unlock()
	k.board.problem("uplink")
	if before.Name != uplink.Name {
		select {
		case k.other <- struct{}{}:
		default: // one is pending
		}
	}
	same := before.Name == uplink.Name && before.MTU == uplink.MTU && slices.Equal(before.Addresses, uplink.Addresses)
	if same {
		return
	}
	if before.Name != "" {
		k.log.Info("the uplink changed", "from", fmt.Sprint(before), "to", fmt.Sprint(uplink))
	}
	select {
	case k.moved <- struct{}{}:
	default: // one is pending
	}
}

// count logs the changes. If the same was wanted before, they are repairs, and counted.
func (k *kernel) count(why string, want overlay.State, c overlay.Changes) {
	if c.Empty() {
		return
	}
	if !sameState(k.last, want) {
		k.log.Info("apply what is wanted now", "changes", c.Count())
		return
	}
	k.log.Warn("repair what was changed by others", "noticed by", why, "changes", c.Strings())
	k.board.note(func(s *hosts.Status) { s.Repairs += c.Count() })
}

func sameState(a, b overlay.State) bool {
	published := map[string]netip.AddrPort{} // endpoints differ if the peer has published another
	if b.WireGuard != nil {
		for _, p := range b.WireGuard.Peers {
			published[p.Key] = p.Endpoint
		}
	}
	there := overlay.Found{State: b, TunnelUp: true, WireGuardUp: true, Endpoints: overlay.Endpoints{Published: published}}
	return overlay.Diff(a, there).Empty()
}

// dropLost removes the addresses of lost subnets from the bridges.
func (k *kernel) dropLost(w wanted) error {
	for _, o := range w.lost {
		if slices.ContainsFunc(w.claims, func(c cluster.Owned) bool { return c.Subnet == o.Subnet }) {
			continue // this host has claimed it again
		}
		if err := k.host.DropAddresses(bridgeOf(o.Network), prefixesOf(o)); err != nil {
			return err
		}
	}
	return nil
}

// report notes the result for the status and, if the host is ready, writes the network lists
// for the runtime.
func (k *kernel) report(w wanted, state overlay.State, problems []string, err error) {
	if err != nil {
		problems = append(problems, err.Error())
		k.log.Error("apply what is wanted", "error", err)
	}
	k.board.problem("kernel", problems...)
	if w.config.ID == "" {
		return
	}
	k.mu.Lock()
	uplink := k.uplink
	k.mu.Unlock()
	mtu := w.config.MTU
	if mtu == 0 && uplink.MTU != 0 {
		mtu = overlay.MTU(k.selfOf(w, uplink), peersOf(w.peers))
	}
	strangers, strangersErr := k.host.Strangers()
	k.board.note(func(s *hosts.Status) {
		s.Uplink, s.MTU, s.Tunnel, s.Peers = uplink.Name, mtu, tunnelOf(state), infoOf(w, state)
		if strangersErr == nil {
			s.Strangers = strangers
		}
	})
	switch {
	case w.drained:
		err = withdrawConflists(allNetworks)
	case !w.ready || uplink.MTU == 0:
		return
	default:
		err = writeConflists(cluster.State{ID: w.id, Config: w.config, Claims: w.claims}, mtu, k.settings.Kubernetes != nil)
	}
	if err != nil {
		k.log.Error("write or withdraw the configuration for the runtime", "error", err)
	}
	k.board.problem("conflist", problemsOf(err)...)
}

// This compiles only if pkg/hosts, by which others recognize our routes, has the same number.
var _ = [1]struct{}{}[overlay.Protocol-hosts.RouteProtocol]

// tunnelOf is the state's device, if it has one.
func tunnelOf(state overlay.State) *hosts.Device {
	switch {
	case state.Tunnel != nil:
		return &hosts.Device{Name: overlay.TunnelName, Kind: "vxlan", VNI: state.Tunnel.VNI, Port: state.Tunnel.Port}
	case state.WireGuard != nil:
		return &hosts.Device{Name: overlay.WireGuardName, Kind: hosts.WireGuard, Port: state.WireGuard.Port}
	}
	return nil
}

// wayOf is a route's kind as the status has it, which says once of what kind the tunnel is.
func wayOf(k overlay.Kind) string {
	if k == overlay.ByWireGuard {
		return hosts.Tunnel
	}
	return string(k)
}

func infoOf(w wanted, state overlay.State) []hosts.Peer {
	ways := map[string]string{}
	for _, r := range state.Routes {
		ways[r.Dst.String()] = wayOf(r.Kind)
	}
	peers := []hosts.Peer{}
	for _, n := range w.peers {
		info := hosts.Peer{
			ID:       n.ID,
			Name:     n.Name,
			Underlay: n.Underlay,
			Subnets:  subnetsOf(n.Subnets),
			MTU:      n.MTU,
			Way:      hosts.None,
			Missing:  slices.Contains(w.missing, n.ID),
		}
		for _, o := range n.Subnets {
			if way := ways[o.Subnet.String()]; way != "" {
				info.Way = way
			}
		}
		peers = append(peers, info)
	}
	slices.SortFunc(peers, func(a, b hosts.Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers
}

// removeOnce is remove without a running agent.
func (k *kernel) removeOnce(w wanted) applied {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return applied{err: err}
	}
	k.host = host
	host.SetKey(k.key)
	defer func() { _ = host.Close() }() // only sockets are closed
	return k.remove(w)
}
