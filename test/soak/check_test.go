package soak

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

// someone is how whoever was ever there is named, in whatever tells of it.
var someone = regexp.MustCompile(`soak-\d+-\d+-\d+`)

// rest brings the host to rest and looks at everything.
func (w *world) rest() {
	w.restore(noKill)
	w.collectList()
	w.nothingOfTheDead()
	w.theLinks()
	w.theLeases()
	var all sync.WaitGroup
	places := make(chan bool, 4)
	for _, a := range w.all {
		if a.state != there {
			continue
		}
		all.Go(func() {
			places <- true
			defer func() { <-places }()
			a.works()
		})
	}
	all.Wait()
}

// eventually gives the kernel the time that it takes for what it does later: namespaces
// that end, elements that expire.
func eventually(find func() []string) (left []string) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if left = find(); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// alive are the ids of those who are there.
func (w *world) alive() map[string]bool {
	ids := map[string]bool{}
	for _, a := range w.all {
		ids[a.id()] = a.state == there
	}
	return ids
}

// nothingOfTheDead: no rule, record, lease or alias names anyone who is gone.
func (w *world) nothingOfTheDead() {
	alive := w.alive()
	for _, left := range eventually(func() (left []string) {
		for where, text := range w.traces() {
			for _, id := range someone.FindAllString(where+" "+text, -1) {
				if !alive[id] {
					left = append(left, where+" tells of "+id)
				}
			}
		}
		return left
	}) {
		w.fault(w.find(left), "%s, who is gone", left)
	}
}

func (w *world) find(text string) *attachment {
	for _, a := range w.all {
		if strings.Contains(text, fmt.Sprintf("soak-%d-%d-", a.worker, a.slot)) {
			return a
		}
	}
	return nil
}

// traces are all places where someone's name may be.
func (w *world) traces() map[string]string {
	traces := map[string]string{}
	err := w.h.Do(func() (err error) {
		traces, err = files("/run/trestle", "/run/cni", "/var/lib/cni")
		return err
	})
	if err != nil {
		w.fault(nil, "look at the files: %v", err)
		return nil
	}
	maps.DeleteFunc(traces, func(path, _ string) bool { return strings.HasPrefix(path, "/var/lib/cni/cache") })
	for _, command := range []string{"nft list ruleset", "iptables-save", "ip6tables-save", "ip -d link"} {
		output, err := w.h.Run(host.Command{Args: strings.Fields(command)})
		if err != nil || output.Code != 0 {
			w.fault(nil, "%s: %v %s", command, err, output.Stderr)
		}
		for i, line := range strings.Split(output.Stdout, "\n") {
			traces[fmt.Sprintf("%s:%d: %s", command, i, strings.TrimSpace(line))] = ""
		}
	}
	return traces
}

// theLinks: each attachment has its host veth and its ifb, and nobody else has one.
func (w *world) theLinks() {
	want := map[string]bool{"lo": true, host.Uplink: true}
	for _, n := range w.plan.networks {
		want[n.bridge] = true
	}
	for _, a := range w.all {
		if a.state != there {
			continue
		}
		result, err := host.DecodeResult([]byte(a.result))
		if err != nil {
			w.fault(a, "%v", err)
			continue
		}
		for _, i := range result.Interfaces {
			if i.Sandbox == "" {
				want[i.Name] = true
			}
		}
	}
	var have map[string]bool
	for _, name := range eventually(func() (left []string) {
		have = map[string]bool{}
		for _, name := range strings.Fields(w.h.MustRun("ls", "/sys/class/net")) {
			if have[name] = true; !want[name] {
				left = append(left, name)
			}
		}
		return left
	}) {
		w.fault(nil, "link %s is nobody's", name)
	}
	for _, a := range w.all {
		for name := range want {
			if a.state == there && !have[name] && strings.Contains(a.result, `"`+name+`"`) {
				w.fault(a, "has no %s any more", name)
			}
		}
	}
}

// theLeases: everyone has those of the result, and nobody else has any.
func (w *world) theLeases() {
	want := map[string]string{}
	for _, a := range w.all {
		for _, address := range a.addresses {
			want[filepath.Join("/var/lib/cni/networks", a.network.name, address)] = a.id() + "\r\neth0"
		}
	}
	have := w.leases()
	for path, owner := range want {
		if have[path] != owner {
			w.fault(w.find(owner), "lease %s is %q's", path, have[path])
		}
	}
	for path, owner := range have {
		if want[path] == "" {
			w.fault(w.find(owner), "lease %s of %q is one too many", path, owner)
		}
	}
}

func (w *world) leases() map[string]string {
	var all map[string]string
	err := w.h.Do(func() (err error) {
		all, err = files("/var/lib/cni/networks")
		return err
	})
	if err != nil {
		w.fault(nil, "look at the leases: %v", err)
	}
	maps.DeleteFunc(all, func(path, _ string) bool {
		_, err := netip.ParseAddr(filepath.Base(path))
		return err != nil
	})
	return all
}

// works: the attachment is what CHECK, its neighbours and the world expect.
func (a *attachment) works() {
	// Where an older ruleset has the rule of the MAC check, but neither it nor a record the
	// MAC, nobody knows that the container may be heard.
	if a.intact() || a.network.bridgeKeys["macspoofchk"] == nil {
		if err := a.answers(); err != nil {
			a.w.fault(a, "does not answer the host: %v", err)
		}
		if err := a.c.Ping(gatewayOf(a.addresses[0])); err != nil {
			a.w.fault(a, "%v", err)
		}
	}
	if !a.intact() {
		return
	}
	for i := range chain {
		if err := a.call("CHECK", i, a.c.NetNS, a.result, noKill).Err(); err != nil {
			a.w.fault(a, "CHECK by %s: %v", chain[i], err)
		}
	}
	if err := a.serves(80, a.w.h.Outside, host.HostIPv4.Addr()); err != nil {
		a.w.fault(a, "does not answer at its host port: %v", err)
	}
	// the world is reached, and sees the host's address
	if reply, err := a.c.Request("tcp", netip.AddrPortFrom(host.OutsideIPv4.Addr(), 80).String()); err != nil || reply.Seen.Addr() != host.HostIPv4.Addr() {
		a.w.fault(a, "asks the world: got %v, %v, want %v seen", reply, err, host.HostIPv4.Addr())
	}
}

// gatewayOf is the first address of the network, all of whose are above 10.x.0.0.
func gatewayOf(address string) netip.Addr {
	a := netip.MustParseAddr(address).As4()
	return netip.AddrFrom4([4]byte{a[0], a[1], 0, 1})
}

// answers: the host reaches the container by each of its addresses.
func (a *attachment) answers() error {
	var to []netip.Addr
	for _, address := range a.addresses {
		to = append(to, netip.MustParseAddr(address))
	}
	return a.serves(0, a.w.h.Namespace, to...)
}

// serves has the container listen, and somebody connect to each of the addresses. Where
// the container's port is the kernel's choice, it is at the same one that they are asked.
func (a *attachment) serves(port uint16, from *host.Namespace, to ...netip.Addr) error {
	var listener net.Listener
	err := a.c.Do(func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprint(":", port))
		// A process that was being started may still have the former one open.
		for deadline := time.Now().Add(patience); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			listener, err = net.Listen("tcp", fmt.Sprint(":", port))
		}
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // nothing was written
	name := fmt.Sprintf("%d-%d\n", a.worker, a.slot)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			_, _ = conn.Write([]byte(name)) // the client sees what is missing
			_ = conn.Close()                // likewise
		}
	}()
	asked := uint16(a.port)
	if address, ok := listener.Addr().(*net.TCPAddr); ok && port == 0 {
		asked = uint16(address.Port)
	}
	return from.Do(func() error {
		for _, address := range to {
			if err := connect(netip.AddrPortFrom(address, asked), name); err != nil {
				return err
			}
		}
		return nil
	})
}

// connect expects to be told a name.
func connect(to netip.AddrPort, want string) error {
	conn, err := net.DialTimeout("tcp", to.String(), 20*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the answer was read
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	buffer := make([]byte, 64)
	if n, err := conn.Read(buffer); string(buffer[:n]) != want {
		return fmt.Errorf("at %s got %q, %w, want %q", to, buffer[:n], err, want)
	}
	return nil
}

// probe asks, all along, one after another of those who are there: they answer,
// whatever befalls rules and records.
func (w *world) probe(over <-chan bool) (asked int) {
	for i := 0; ; i++ {
		select {
		case <-over:
			return asked
		case <-time.After(20 * time.Millisecond):
		}
		a := w.all[(i*7)%len(w.all)]
		if !a.lock.TryLock() {
			continue
		}
		// An older ruleset may know nothing of a MAC that has come since.
		if a.state == there && a.network.bridgeKeys["macspoofchk"] == nil {
			asked++
			if err := a.answers(); err != nil {
				w.fault(a, "does not answer: %v", err)
			}
		}
		a.lock.Unlock()
	}
}

// leave ends all attachments, and sees that the host is as it was before the first.
func (w *world) leave() {
	for _, a := range w.all {
		if a.state != gone {
			a.del(turn{retries: []kill{noKill}}, a.c.NetNS, noKill)
		}
	}
	w.collectList()
	w.nothingOfTheDead()
	if left := w.leases(); len(left) > 0 {
		w.fault(nil, "got leases %v, want none", left)
	}
	if left := eventually(func() []string {
		return slices.DeleteFunc(strings.Fields(w.h.MustRun("ls", "/sys/class/net")), func(name string) bool { return name == "lo" || name == host.Uplink })
	}); len(left) > 0 {
		w.fault(nil, "got links %v, want none of ours", left)
	}
	if tables := w.h.MustRun("nft", "list", "tables"); strings.Contains(tables, "trestle") {
		w.fault(nil, "got %s, want idle tables gone", tables)
	}
	err := w.h.Do(func() error {
		left, err := files("/run/trestle", "/run/cni")
		for path, content := range left {
			if !strings.HasPrefix(path, "/run/trestle/nft/") && !strings.HasSuffix(path, "lock") {
				w.fault(nil, "file %s is left: %s", path, content)
			}
		}
		return err
	})
	if err != nil {
		w.fault(nil, "%v", err)
	}
}
