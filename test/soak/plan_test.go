package soak

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
)

// plan is what a run does: a pure function of seed and size. What the workers' calls
// meet of one another is not in it; that is the scheduler's.
type plan struct {
	networks []network
	rounds   []round
}

// round is a time in which workers and disturbances are at work at once. When all are
// done, everything is looked at.
type round struct {
	workers      [][]turn
	disturbances []disturbance
	boot         *boot // before everything is looked at
}

// turn is one call of the runtime: ADD where the attachment is not there, else its end.
type turn struct {
	slot    int // which of the worker's attachments
	end     ending
	kill    kill
	retries []kill // of the DELs that follow a call that was killed
}

// ending is how an attachment ends.
type ending int

const (
	byDel           ending = iota
	vanishThenDel          // the namespace goes first; DEL names the path that is no more
	vanishThenDelNo        // likewise; DEL names no namespace
	vanish                 // the namespace goes, and nobody calls DEL
	loseLink               // the interface goes, DEL comes
	endings
)

// kill is a SIGKILL for one plugin of the chain. At is the moment, as a share of what such
// calls have taken so far, so that it falls amidst the work on any machine.
type kill struct {
	plugin int // none where negative
	at     float64
}

var noKill = kill{plugin: -1}

// disturbance comes when so much of the round's turns has been done.
type disturbance struct {
	after float64
	what  disturbanceKind
	seed  uint64 // of what is chosen at random: which file, which byte
}

type disturbanceKind int

const (
	flushRules  disturbanceKind = iota // nft flush ruleset
	saveRules                          // nft list, iptables-save
	loadRules                          // the saved ones, with whatever they hold
	damageIndex                        // of host-local's leases
	wipeRun                            // /run/trestle, /run/cni
	restore                            // trestle restore
	killRestore                        // … killed
	collect                            // trestle gc: takes what is provably dead
	collectList                        // GC with the list of those that are valid
	disturbances
)

// boot is one that is faked: no links, no namespaces, another boot id.
type boot struct{ keepsRun, keepsRules bool }

// Slots of each worker, and turns of each in a round.
const (
	slots        = 3
	turnsInRound = 10
)

func newPlan(seed uint64, calls, workers int) plan {
	r := rand.New(rand.NewPCG(seed, 0))
	p := plan{networks: newNetworks()}
	for calls > 0 {
		next := round{}
		for range workers {
			var turns []turn
			for range turnsInRound {
				turns = append(turns, newTurn(r))
			}
			next.workers = append(next.workers, turns)
		}
		calls -= workers * turnsInRound
		for range 2 + r.IntN(5) {
			next.disturbances = append(next.disturbances, disturbance{after: r.Float64(), what: disturbanceKind(r.IntN(int(disturbances))), seed: r.Uint64()})
		}
		slices.SortFunc(next.disturbances, func(a, b disturbance) int { return cmp.Compare(a.after, b.after) })
		if r.IntN(4) == 0 {
			next.boot = &boot{keepsRun: r.IntN(2) == 0, keepsRules: r.IntN(2) == 0}
		}
		p.rounds = append(p.rounds, next)
	}
	return p
}

func describe(p plan) string {
	text := ""
	for _, r := range p.rounds {
		text += fmt.Sprintln(r.workers, r.disturbances, r.boot != nil)
	}
	return text
}

func newTurn(r *rand.Rand) turn {
	t := turn{slot: r.IntN(slots), kill: noKill}
	if r.IntN(2) == 0 {
		t.end = ending(r.IntN(int(endings)))
	}
	if r.IntN(2) == 0 { // of whom some are done before
		t.kill = newKill(r)
	}
	for range 3 {
		k := noKill
		if r.IntN(3) == 0 {
			k = newKill(r)
		}
		t.retries = append(t.retries, k)
	}
	return t
}

func newKill(r *rand.Rand) kill { return kill{plugin: r.IntN(len(chain)), at: r.Float64()} }

// chain are the plugins of each network, in order.
var chain = []string{"bridge", "tuning", "bandwidth", "portmap", "firewall"}

// network is one of the networks that attachments are on.
type network struct {
	name, bridge, backend string
	subnets               []string
	bridgeKeys            map[string]any
	policy                string
}

func newNetworks() []network {
	return []network{
		{name: "plain", bridge: "br0", backend: "nftables", subnets: []string{"10.10.0.0/23"}, policy: "same-bridge"},
		{
			name: "dual", bridge: "br1", backend: "nftables", subnets: []string{"10.20.0.0/23", "fd20::/112"}, policy: "isolated",
			bridgeKeys: map[string]any{"macspoofchk": true, "hairpinMode": true, "bridgeLifetime": "auto"},
		},
		{name: "legacy", bridge: "br2", backend: "iptables", subnets: []string{"10.30.0.0/23"}, policy: "open"},
	}
}

// networkOf: iptables' programs are slow, and few attachments have to do with them.
func networkOf(worker, slot int) int {
	if slot == 0 && worker%4 == 0 {
		return 2
	}
	return (worker + slot) % 2
}

// portOf: the last slot of each wants what the neighbour's last slot wants as well.
func portOf(worker, slot int) int {
	if slot == slots-1 {
		return 30000 + worker/2
	}
	return 20000 + worker*slots + slot
}
