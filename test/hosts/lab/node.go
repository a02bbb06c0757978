package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// Config is the configuration of the tests' cluster: one network of both families.
const Config = `{"id": "lab", "networks": [{"name": "pods",
	"ipv4": {"pool": "10.40.0.0/16", "subnetLen": 24}, "ipv6": {"pool": "fd40::/48", "subnetLen": 64}}]}`

// Patience is how long anything may take; in the machine of `make test-vm` longer.
var Patience = map[bool]time.Duration{false: 45 * time.Second, true: 10 * time.Minute}[os.Getenv("TRESTLE_VM") != ""]

// Eventually asks until there is no error.
func (l *Lab) Eventually(what string, ask func() error) {
	l.Helper()
	if err := soon(ask); err != nil {
		l.Fatalf("%s: not after %v: %v", what, Patience, err)
	}
}

// soon asks until there is no error, or patience is at its end.
func soon(ask func() error) error {
	deadline := time.Now().Add(Patience)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// program is trestle-node, beside the plugins under test.
func (h *Host) program() string { return filepath.Join(h.Dirs().Trestle, "trestle-node") }

// Settings are node.json of a host.
type Settings map[string]any

// Settings are those of a host on this etcd, with short times.
func (e *Etcd) Settings(name string) Settings {
	return Settings{
		"name": name, "etcd": map[string]any{"endpoints": e.URLs()},
		"heartbeat": "2s", "audit": "2s", "timeout": "2s", "alive": "3s",
	}
}

// Agent is a running trestle-node.
type Agent struct {
	*Host
	lab  *Lab
	stop func() string
}

// Agent writes the settings and starts the agent.
func (l *Lab) Agent(h *Host, s Settings) *Agent {
	l.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		l.Fatalf("settings: %v", err)
	}
	h.Write("/etc/trestle/node.json", string(data))
	a := &Agent{Host: h, lab: l}
	a.Start()
	return a
}

// Start starts it, again where it was stopped.
func (a *Agent) Start() {
	a.stop = a.Host.Start(host.Command{Args: []string{a.program(), "node", "run"}, Env: a.Env})
}

// Kill kills it, with no time for anything, and gives its log.
func (a *Agent) Kill() string { return a.stop() }

// Node runs "trestle node …" or "trestle cluster …" on the host.
func (h *Host) Node(args ...string) host.Output {
	output, err := h.Run(host.Command{Args: append([]string{h.program()}, args...)})
	if err != nil {
		return host.Output{Stderr: err.Error(), Code: -1}
	}
	return output
}

// Status is what tests read of "node status --json".
type Status struct {
	ID, Name, State, Why string
	Updated              string
	PID                  int
	Store                struct {
		Connected    bool
		Error, Since string
	}
	Subnets, Lost []struct {
		Network string
		Subnet  netip.Prefix
	}
	Restart          []struct{ Container string }
	Peers            []Peer
	Tunnel           struct{ Kind string }
	MTU, Repairs     int
	StrangersDropped int
	Problems         []string
}

// Peer is another host.
type Peer struct {
	ID, Name, Way string
	Missing       bool
	Seen          time.Time
	Underlay      []netip.Prefix
}

// Status asks for it.
func (h *Host) Status() (Status, error) {
	output := h.Node("node", "status", "--json")
	var s Status
	if err := json.Unmarshal([]byte(output.Stdout), &s); err != nil {
		return s, fmt.Errorf("status of %s: %s%s", h.Name, output.Stdout, output.Stderr)
	}
	return s, nil
}

// Await waits until the status is as it should be.
func (l *Lab) Await(h *Host, what string, is func(Status) bool) Status {
	l.Helper()
	var s Status
	err := soon(func() (err error) {
		if s, err = h.Status(); err != nil {
			return err
		}
		if !is(s) {
			data, _ := json.Marshal(s) // of what was JSON
			return fmt.Errorf("got %s", data)
		}
		return nil
	})
	if err != nil {
		l.Fatalf("%s: %s: not after %v: %v\n%s", h.Name, what, Patience, err, l.Look(h))
	}
	return s
}

// Look is what there is to see of a host that does not do what a test waits for.
func (l *Lab) Look(h *Host) string {
	const host = `date; uptime; date +%T.%N; pgrep -a . | grep -v kworker | head -30; ip -br address; ip route; ip neigh; ss -tanp; nft list ruleset; cat /run/trestle/node/status.json;
		for m in 1 2 3 4; do ping -n -c1 -W1 203.0.113.$m | sed -n 2p; timeout 2 bash -c "echo </dev/tcp/203.0.113.$m/2379" && echo "port of .$m is open"; done; ip neigh`
	const others = `ip neigh; ip -br link; bridge fdb show br sw0; ss -tanp`
	return h.MustRun("sh", "-c", "exec 2>&1\n"+host+"; true") + "--- the switch\n" + l.Switch.MustRun("sh", "-c", "exec 2>&1\n"+others+"; true")
}

// Ready waits until the host is ready and knows so many peers.
func (l *Lab) Ready(h *Host, peers int) Status {
	l.Helper()
	return l.Await(h, fmt.Sprintf("ready with %d peers", peers), func(s Status) bool {
		return s.State == "ready" && s.Store.Connected && len(s.Peers) == peers
	})
}

// Subnet is the host's of the network, in one family.
func (s Status) Subnet(is4 bool) netip.Prefix {
	for _, o := range s.Subnets {
		if o.Subnet.Addr().Is4() == is4 {
			return o.Subnet
		}
	}
	return netip.Prefix{}
}

// Attached is a container on the network "pods".
type Attached struct {
	*host.Container
	Addresses []netip.Addr
	host      *Host
}

// Attach makes a container and attaches it by the configuration that the agent wrote.
func (l *Lab) Attach(h *Host, id string) *Attached {
	l.Helper()
	var list []byte
	err := h.Do(func() (err error) {
		list, err = os.ReadFile("/etc/cni/net.d/10-pods.conflist")
		return err
	})
	if err != nil {
		l.Fatalf("%s has no network for containers: %v", h.Name, err)
	}
	c := h.Container(id)
	result, err := h.Network(string(list)).Add(c.Attachment())
	if err != nil {
		l.Fatalf("attach %s on %s: %v", id, h.Name, err)
	}
	a := &Attached{Container: c, host: h}
	for _, ip := range result.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP) // an address
		a.Addresses = append(a.Addresses, addr.Unmap())
	}
	return a
}

// Detach does the opposite.
func (a *Attached) Detach(list string) error {
	return a.host.Network(list).Del(a.Attachment())
}

// Reach waits until one container reaches another by each address, and is seen by its own.
func (l *Lab) Reach(from, to *Attached) {
	l.Helper()
	for _, addr := range to.Addresses {
		l.Eventually(fmt.Sprintf("%s reaches %s at %s", from.ID, to.ID, addr), func() error { return from.Briefly().Ping(addr) })
	}
}

// Pinger pings all the time, and says at its end how many were not answered.
type Pinger struct {
	from   *host.Namespace
	target netip.Addr
	stop   func() string
	lab    *Lab
}

// Pings starts pings, a hundred a second.
func (l *Lab) Pings(from *Attached, target netip.Addr) *Pinger {
	log := "/run/ping-" + from.ID
	from.MustRun("rm", "-f", log)
	stop := from.Start(host.Command{Args: []string{"sh", "-c", "exec ping -n -i0.01 -W2 -O " + target.String() + " >" + log + " 2>&1"}})
	return &Pinger{from.Namespace, target, stop, l}
}

// Lost ends the pings. Those that are under way when it is called are waited for, and however
// many follow until the end do not count.
func (p *Pinger) Lost() (sent, lost int) {
	var answered map[int]bool
	p.lab.Eventually("pings are sent", func() error {
		before, _ := p.seen()
		for seq := range before {
			sent = max(sent, seq)
		}
		if sent == 0 {
			return errors.New("got none")
		}
		return nil
	})
	p.lab.Eventually("pings are answered", func() error {
		_, answered = p.seen()
		for seq := range answered {
			if seq >= sent {
				return nil
			}
		}
		return fmt.Errorf("got answers to %d of %d", len(answered), sent)
	})
	p.stop()
	for seq := 1; seq <= sent; seq++ {
		if !answered[seq] {
			lost++
		}
	}
	return sent, lost
}

var (
	pingLine   = regexp.MustCompile(`icmp_seq=(\d+)`)
	answerLine = regexp.MustCompile(`bytes from .* icmp_seq=(\d+) `)
)

// seen are the numbers of the pings so far, and of those that were answered.
func (p *Pinger) seen() (sent, answered map[int]bool) {
	text := p.from.MustRun("cat", "/run/ping-"+p.from.Name)
	numbers := func(pattern *regexp.Regexp) map[int]bool {
		all := map[int]bool{}
		for _, match := range pattern.FindAllStringSubmatch(text, -1) {
			n, _ := strconv.Atoi(match[1]) // digits
			all[n] = true
		}
		return all
	}
	return numbers(pingLine), numbers(answerLine)
}
