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

// kernel keeps this host's kernel at what the state asks for. It has a goroutine of its
// own, so that a store which does not answer keeps nothing from being repaired.
type kernel struct {
	settings settings
	log      *slog.Logger
	board    *board

	mu     sync.Mutex
	want   wanted
	uplink overlay.Uplink
	wake   chan string   // why to look
	moved  chan struct{} // the uplink is another
	done   chan struct{} // closed when the first look is over
	// flushes are answered after the next look.
	flushes chan chan brought
	other   chan struct{} // the uplink is another device: listen to that
	// stirred says that something of the kernel has changed, and not only what is wanted.
	stirred atomic.Bool

	key  wgtypes.Key   // WireGuard's
	host *overlay.Host // of the goroutine
	last overlay.State // what was applied last: a difference from it is somebody else's doing
	mtu  int           // what containers were compared with last
}

// brought is what came of a look.
type brought struct {
	// inUse are bridges that stay when all of ours goes, since containers are on them.
	inUse []string
	err   error
}

// wanted is what the kernel is made from.
type wanted struct {
	id      string
	config  cluster.Config
	claims  []cluster.Owned
	lost    []cluster.Owned
	peers   []cluster.Node
	missing []string
	// ready says that the runtime may start containers; drained that it may start none.
	ready, drained bool
	// gone says that all that is ours is to go.
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
		flushes:  make(chan chan brought),
	}
}

// set says what is wanted from now on.
func (k *kernel) set(w wanted) {
	k.mu.Lock()
	k.want = w
	k.mu.Unlock()
	k.look(forPeers)
}

// trust lets the runtime start containers in the subnets that are wanted.
func (k *kernel) trust(ctx context.Context) {
	k.mu.Lock()
	k.want.ready = len(k.want.claims) > 0 && !k.want.gone
	k.mu.Unlock()
	k.flush(ctx)
}

// flush waits until what was set has been brought about, and says what came of it.
func (k *kernel) flush(ctx context.Context) brought {
	done := make(chan brought, 1)
	select {
	case k.flushes <- done:
	case <-ctx.Done():
		return brought{err: ctx.Err()}
	}
	select {
	case b := <-done:
		return b
	case <-ctx.Done():
		return brought{err: ctx.Err()}
	}
}

// forPeers is why the loop looks where something else is wanted.
const forPeers = "peers"

// look wakes the loop, which compares everything. why is for the log.
func (k *kernel) look(why string) {
	if why != forPeers {
		k.stirred.Store(true) // also where one is asked for because of the peers
	}
	select {
	case k.wake <- why:
	default: // one is asked for
	}
}

func (k *kernel) currentUplink() overlay.Uplink {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.uplink
}

// debounceTime lets events that come together be looked at together.
const debounceTime = 50 * time.Millisecond

// run looks at the kernel when it says that something has changed, when something else
// is wanted, and once in a while all the same.
func (k *kernel) run(ctx context.Context) error {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return err
	}
	k.host = host
	host.SetKey(k.key)
	defer func() { _ = host.Close() }() // all is as it shall be
	k.bring("start")
	close(k.done)
	go k.listen(ctx)
	audit := time.NewTicker(k.settings.Audit.Duration)
	defer audit.Stop()
	for {
		why := "audit"
		var flushed chan brought
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
		b := k.bring(why)
		if flushed != nil {
			flushed <- b
		}
	}
}

// pause waits, or not so long if ctx ends.
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
		if err := overlay.Events(listening, k.currentUplink().Name, k.look); err != nil {
			k.log.Warn("listen to the kernel, again", "error", err)
			pause(ctx, time.Second)
		}
		stop()
	}
}

// bring compares the kernel with what is wanted, changes what differs, and reports. why is
// what woke it: a difference from what was applied before counts as a repair.
func (k *kernel) bring(why string) brought {
	defer k.board.write(why == "audit") // which shows that this host looks
	// To find the uplink all routes are read: not at each change of a peer.
	if stirred := k.stirred.Swap(false); stirred || why != forPeers || len(k.currentUplink().Addresses) == 0 {
		k.findUplink()
	}
	k.mu.Lock()
	w, uplink := k.want, k.uplink
	k.mu.Unlock()
	if w.gone {
		b := k.remove(w)
		k.board.problem("kernel", problemsOf(b.err)...)
		return b
	}
	if w.config.ID == "" || len(w.claims)+len(w.lost) == 0 || len(uplink.Addresses) == 0 {
		k.report(w, overlay.State{}, nil, nil)
		return brought{}
	}
	self := k.selfOf(w, uplink)
	state, problems := overlay.Plan(self, peersOf(w.peers))
	have, err := k.host.Observe(state)
	if err == nil {
		changes := overlay.Diff(state, have)
		k.count(why, state, changes)
		err = k.host.Apply(changes)
		for dst, who := range have.Foreign {
			problems = append(problems, fmt.Sprintf("the route to %s is of %s, and is left to it; delete that (ip route del %s), and ours is made", dst, who, dst))
		}
	}
	err = errors.Join(err, k.dropLost(w)) // another host's, whatever else cannot be made
	slices.Sort(problems)
	k.report(w, state, problems, err)
	if err == nil {
		k.last = state
	}
	if mtu := k.board.now().MTU; mtu != k.mtu || why == "audit" {
		k.mtu = mtu
		k.compareContainers(w, mtu)
	}
	return brought{err: err}
}

// compareContainers counts containers whose MTU is larger than what all hosts take now. The
// kernel answers their packets that are too large with the right size (ICMP, packet too
// big), and most senders adapt.
func (k *kernel) compareContainers(w wanted, mtu int) {
	var found []string
	for _, bridge := range bridgesOf(w.config) {
		n, err := k.host.LargerPorts(bridge, mtu)
		if err != nil {
			found = append(found, err.Error())
		} else if n > 0 && mtu > 0 {
			found = append(found, fmt.Sprintf("containers on %s with a larger MTU than %d, which is what all hosts take now: %d; "+
				"the kernel tells them so (ICMP), and who does not listen must be restarted", bridge, mtu, n))
		}
	}
	k.board.problem("mtu", found...)
}

// remove takes away what is ours: lists, routes, tunnel, rules, and bridges without
// containers. It goes on after a failure; what it could not do the next one does.
func (k *kernel) remove(w wanted) (b brought) {
	b.err = errors.Join(withdrawConflists(allNetworks), k.host.Remove(overlay.MAC(w.id)))
	for _, name := range bridgesOf(w.config) {
		inUse, err := k.host.RemoveBridge(name)
		if b.err = errors.Join(b.err, err); inUse {
			b.inUse = append(b.inUse, name)
		}
	}
	return b
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

// findUplink looks for the uplink. Where there is none now, the last one found is kept, and
// so are the routes over it: the kernel deletes those that lead nowhere.
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
		default: // it is known
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
	default: // it is known
	}
}

// count logs the changes. Where the same was wanted before they are repairs, and counted.
func (k *kernel) count(why string, want overlay.State, c overlay.Changes) {
	if c.Empty() {
		return
	}
	if !sameState(k.last, want) {
		k.log.Info("bring the kernel to the peers", "changes", c.Count())
		return
	}
	k.log.Warn("repair what was changed by others", "noticed by", why, "changes", c.Strings())
	k.board.note(func(s *Status) { s.Repairs += c.Count() })
}

func sameState(a, b overlay.State) bool {
	published := map[string]netip.AddrPort{} // of a peer's endpoints two differ only by what it says
	if b.WireGuard != nil {
		for _, p := range b.WireGuard.Peers {
			published[p.Key] = p.Endpoint
		}
	}
	there := overlay.Found{State: b, TunnelUp: true, WireGuardUp: true, Endpoints: overlay.Endpoints{Published: published}}
	return overlay.Diff(a, there).Empty()
}

// dropLost takes the gateways of subnets that are another's off the bridges.
func (k *kernel) dropLost(w wanted) error {
	for _, o := range w.lost {
		if slices.ContainsFunc(w.claims, func(c cluster.Owned) bool { return c.Subnet == o.Subnet }) {
			continue // it is ours again
		}
		if err := k.host.DropAddresses(bridgeOf(o.Network), prefixesOf(o)); err != nil {
			return err
		}
	}
	return nil
}

// report writes status and, where the host is ready, the configurations for the runtime.
func (k *kernel) report(w wanted, state overlay.State, problems []string, err error) {
	if err != nil {
		problems = append(problems, err.Error())
		k.log.Error("bring the kernel to what is wanted", "error", err)
	}
	k.board.problem("kernel", problems...)
	if w.config.ID == "" {
		return
	}
	k.mu.Lock()
	uplink := k.uplink
	k.mu.Unlock()
	mtu := w.config.MTU
	if mtu == 0 {
		mtu = overlay.MTU(k.selfOf(w, uplink), peersOf(w.peers))
	}
	strangers, strangersErr := k.host.Strangers()
	k.board.note(func(s *Status) {
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

// Compiles only if pkg/hosts, by which others recognize our routes, has the same number.
var _ = [1]struct{}{}[overlay.Protocol-hosts.RouteProtocol]

// tunnelOf is the device that the state has, if any.
func tunnelOf(state overlay.State) *hosts.Device {
	switch {
	case state.Tunnel != nil:
		return &hosts.Device{Name: overlay.TunnelName, Kind: "vxlan", VNI: state.Tunnel.VNI, Port: state.Tunnel.Port}
	case state.WireGuard != nil:
		return &hosts.Device{Name: overlay.WireGuardName, Kind: hosts.WireGuard, Port: state.WireGuard.Port}
	}
	return nil
}

// wayOf is what the status says of a route: of which kind the tunnel is, it says once.
func wayOf(k overlay.Kind) string {
	if k == overlay.ByWireGuard {
		return hosts.Tunnel
	}
	return string(k)
}

func infoOf(w wanted, state overlay.State) []PeerInfo {
	ways := map[string]string{}
	for _, r := range state.Routes {
		ways[r.Dst.String()] = wayOf(r.Kind)
	}
	peers := []PeerInfo{}
	for _, n := range w.peers {
		info := PeerInfo{
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
	slices.SortFunc(peers, func(a, b PeerInfo) int { return strings.Compare(a.Name, b.Name) })
	return peers
}

// removeOnce is remove without a running agent.
func (k *kernel) removeOnce(w wanted) brought {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return brought{err: err}
	}
	k.host = host
	host.SetKey(k.key)
	defer func() { _ = host.Close() }() // it is done
	return k.remove(w)
}
