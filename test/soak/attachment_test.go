package soak

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// state is what the runtime knows of an attachment.
type state int

const (
	gone  state = iota // never there, or a DEL succeeded
	there              // the ADD succeeded, and nothing has ended it
	limbo              // a call was killed, or nobody called DEL
)

// attachment is a place for one container after another, in the hands of one worker.
type attachment struct {
	w            *world
	worker, slot int
	network      network
	port         int

	// lock is held by who acts on it.
	lock       sync.Mutex
	c          *host.Container
	generation int
	state      state
	began      atomic.Uint64 // the world's clock when ADD began
	result     string        // of the whole chain
	addresses  []string      // of result
	history    []string
}

func (a *attachment) id() string { return fmt.Sprintf("soak-%d-%d-%d", a.worker, a.slot, a.generation) }

// renew gives the place to another container.
func (a *attachment) renew() {
	a.generation++
	a.state, a.result, a.addresses = gone, "", nil
	a.c = a.w.h.Container(a.id())
}

// removeNetNS takes the namespace away, and whoever had it from the host's point of view.
func (a *attachment) removeNetNS() {
	a.w.drop(a)
	a.c.Remove()
}

func (a *attachment) note(format string, args ...any) {
	a.history = append(a.history, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
	a.history = a.history[max(0, len(a.history)-25):]
}

// intact: no records were lost since its ADD began, so that everything of it is made again after a flush.
func (a *attachment) intact() bool { return a.began.Load() > a.w.lost.Load() }

// take is one turn.
func (a *attachment) take(t turn) {
	a.w.still.RLock()
	defer a.w.still.RUnlock()
	a.lock.Lock()
	defer a.lock.Unlock()
	switch a.state {
	case gone:
		a.add(t)
	case limbo:
		a.del(t, a.c.NetNS, t.kill)
	default:
		a.end(t)
	}
}

func (a *attachment) add(t turn) {
	a.began.Store(a.w.clock.Add(1))
	a.note("ADD, to be killed: %v", t.kill)
	a.state = limbo
	var prev string
	for i := range chain {
		answer := a.call("ADD", i, a.c.NetNS, prev, killOf(t.kill, i))
		if answer.killed {
			a.note("  %s was killed", chain[i])
			a.del(t, a.c.NetNS, t.retries[0])
			return
		}
		if err := answer.Err(); err != nil {
			a.note("  %s: %v", chain[i], err)
			if chain[i] != "portmap" || host.CodeOf(err) != 102 || !a.hasRival() {
				a.w.fault(a, "ADD by %s: %v", chain[i], err)
			}
			a.del(t, a.c.NetNS, t.retries[0])
			return
		}
		prev = answer.Stdout
	}
	a.arrive(prev)
}

// arrive: what it was given, nobody else has.
func (a *attachment) arrive(result string) {
	a.state, a.result = there, result
	decoded, err := host.DecodeResult([]byte(result))
	if err != nil || len(decoded.IPs) != len(a.network.subnets) {
		a.w.fault(a, "got %s, %v, want an address of each of %v", result, err, a.network.subnets)
		return
	}
	a.addresses = nil
	for _, ip := range decoded.IPs {
		address, _ := netip.AddrFromSlice(ip.Address.IP)
		a.addresses = append(a.addresses, address.Unmap().String())
	}
	a.note("  has %v, port %d", a.addresses, a.port)
	for _, what := range append([]string{fmt.Sprint("port ", a.port)}, a.addresses...) {
		if other := a.w.claim(what, a); other != nil && (other.intact() || !strings.HasPrefix(what, "port")) {
			a.w.fault(a, "was given %s, which %s has", what, other.id())
		}
	}
}

// hasRival: another one that may have the port. It may have ended since the call: the
// plan's shared ports are refused sometimes, the others never.
func (a *attachment) hasRival() bool { return a.slot == slots-1 }

// end is that of one who is there.
func (a *attachment) end(t turn) {
	path := a.c.NetNS
	switch t.end {
	case vanish, vanishThenDel, vanishThenDelNo:
		a.note("the namespace goes")
		a.removeNetNS()
		a.awaitDeath() // until then it has the port, by right
		if t.end == vanishThenDelNo {
			path = ""
		}
		if t.end != vanish {
			a.del(t, path, t.kill)
		}
		a.renew()
		return
	case loseLink:
		a.note("the link goes")
		a.w.drop(a)
		a.c.MustRun("ip", "link", "delete", "eth0")
	}
	a.del(t, path, t.kill)
}

// awaitDeath waits until the kernel has taken the namespace's links away.
func (a *attachment) awaitDeath() {
	result, err := host.DecodeResult([]byte(a.result))
	if err != nil {
		a.w.fault(a, "%v", err)
		return
	}
	for _, i := range result.Interfaces {
		if strings.HasPrefix(i.Name, "veth") && i.Sandbox == "" {
			a.w.h.MustRun("timeout", "60", "sh", "-c", "while [ -e /sys/class/net/"+i.Name+" ]; do sleep .01; done")
		}
	}
}

// del calls DEL until it is not killed any more.
func (a *attachment) del(t turn, netns string, first kill) {
	a.w.drop(a)
	for _, k := range append([]kill{first}, append(slices.Clone(t.retries[1:]), noKill)...) {
		a.note("DEL, to be killed: %v", k)
		if a.delOnce(netns, k) {
			a.state, a.result, a.addresses = gone, "", nil
			return
		}
		a.state = limbo
	}
}

func (a *attachment) delOnce(netns string, k kill) (done bool) {
	for i := len(chain) - 1; i >= 0; i-- {
		answer := a.call("DEL", i, netns, a.result, killOf(k, i))
		if answer.killed {
			a.note("  %s was killed", chain[i])
			return false
		}
		if err := answer.Err(); err != nil {
			a.w.fault(a, "DEL by %s: %v", chain[i], err)
			return true
		}
	}
	return true
}

func killOf(k kill, plugin int) kill {
	if k.plugin != plugin {
		return noKill
	}
	return k
}

// call runs the chain's i-th plugin.
func (a *attachment) call(command string, i int, netns, prev string, k kill) answer {
	config := a.network.config(i)
	config["cniVersion"], config["name"] = "1.1.0", a.network.name
	if chain[i] == "portmap" {
		config["runtimeConfig"] = object{"portMappings": []any{
			object{"hostPort": a.port, "containerPort": 80}, object{"hostPort": a.port, "containerPort": 53, "protocol": "udp"},
		}}
	}
	if prev != "" {
		config["prevResult"] = json.RawMessage(prev)
	}
	call := host.Call{Plugin: chain[i], Command: command, Config: mustJSON(config)}
	env := []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + a.id(), "CNI_IFNAME=eth0", "CNI_PATH=" + a.w.h.Dirs().Trestle, "CNI_NETNS=" + netns}
	return a.w.exec(call, env, k)
}
