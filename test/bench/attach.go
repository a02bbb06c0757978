package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// network is what a variant's network list says.
type network struct {
	dualStack bool
	masq      bool
	ports     int
	backend   string // of masquerade and ports, for the reference plugins: nftables, or a variant of iptables
	oneExec   bool   // bridge maps the ports itself
	alone     bool   // no other container is on the network
	fresh     bool   // nor was one ever: no bridge, no rules
	ptp       bool   // the reference's ptp in the place of its bridge
	// noLinkLocal is Trestle's "ipv6LinkLocal": false.
	noLinkLocal bool
	reference   bool // the reference plugins serve it
}

// backends are those of the reference plugins.
var backends = []string{"nftables", "iptables-nft", "iptables-legacy"}

// attachments are the tables of whole attachments.
func attachments(t host.T) []measure.Section {
	return []measure.Section{
		compare(t, "bridge + host-local", network{}),
		compare(t, "bridge + host-local, dual-stack", network{dualStack: true}),
		compare(t, "bridge + host-local, ipMasq", network{masq: true}, backends...),
		compare(t, "… + portmap with 1 port", network{masq: true, ports: 1}, backends...),
		compare(t, "… + portmap with 10 ports", network{masq: true, ports: 10}, backends...),
		compare(t, "… + portmap with 1 port, dual-stack", network{masq: true, ports: 1, dualStack: true}, backends...),
	}
}

// addDel are the operations of an attachment. The CPU is that of the processes: what
// the kernel does later is not in it.
var addDel = []string{"ADD", "DEL", "ADD, CPU", "DEL, CPU"}

// compare is the table of Trestle and the reference plugins, these with each of
// the backends, if the network has use for one, and with ptp.
func compare(t host.T, title string, n network, backends ...string) measure.Section {
	setup := func() []measure.Variant {
		variants := []measure.Variant{{Name: "trestle", Round: attaching(t, n)}}
		if n.ports > 0 {
			one := n
			one.oneExec = true
			variants = append(variants, measure.Variant{Name: "trestle, bridge alone", Round: attaching(t, one)})
		}
		n := n
		n.reference = true
		ptp := n
		ptp.ptp = true
		if len(backends) == 0 {
			return append(variants, measure.Variant{Name: "reference", Round: attaching(t, n)}, measure.Variant{Name: "reference, ptp", Round: attaching(t, ptp)})
		}
		for _, backend := range backends {
			n.backend = backend
			variants = append(variants, measure.Variant{Name: "reference, " + backend, Round: attaching(t, n)})
		}
		ptp.backend = backends[0]
		return append(variants, measure.Variant{Name: "reference, ptp, " + ptp.backend, Round: attaching(t, ptp)})
	}
	return measure.Section{Title: title, Operations: addDel, Setup: setup}
}

// attachment is what a runtime says of a container's interface.
type attachment = libcni.RuntimeConf

// attaching returns a round of ADD and DEL on a host of its own, where another
// container is attached all the time: the bridge and the rules of the network
// are there.
func attaching(t host.T, n network) func() ([]time.Duration, error) {
	others := 1
	if n.alone {
		others = 0
	}
	return attachingOn(t, host.New(t), n, others)
}

// attachingOn is attaching, where so many others are attached, with a port each if the
// network has any.
func attachingOn(t host.T, h *host.Host, n network, others int) func() ([]time.Duration, error) {
	list, watch := n.on(t, h)
	for i := range others {
		other := h.Container(fmt.Sprintf("other%d", i)).Attachment()
		if n.ports > 0 {
			other.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 10_000 + i, "containerPort": 80, "protocol": "tcp"}}
		}
		if _, err := list.Add(other); err != nil {
			t.Fatalf("%s: %v", n.list(), err)
		}
	}
	attachment := h.Container("c1").Attachment()
	attachment.CapabilityArgs["portMappings"] = n.portMappings()
	return func() ([]time.Duration, error) {
		add, err := watch.time(func() error {
			_, err := list.Add(attachment)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("ADD: %w", err)
		}
		addCPU := watch.cpu
		time.Sleep(measure.Pause)
		del, err := watch.time(func() error { return list.Del(attachment) })
		if err != nil {
			return nil, fmt.Errorf("DEL: %w", err)
		}
		if n.fresh {
			h.MustRun("sh", "-c", "ip link delete br0; nft flush ruleset; rm -rf /run/trestle /run/cni /var/lib/cni/networks")
		}
		return []time.Duration{add, del, addCPU, watch.cpu}, nil
	}
}

// on is the network on a host, and the watch that is held to its plugins.
func (n network) on(t host.T, h *host.Host) (*host.Network, *stopwatch) {
	list, watch := h.Network(n.list()), &stopwatch{path: n.path(t)}
	list.Exec = watch
	if n.reference {
		list.Path = []string{h.Dirs().Reference}
	}
	return list, watch
}

// path is PATH where "iptables" is of the backend's variant; empty: as it is.
func (n network) path(t host.T) string {
	if n.backend == "" || n.backend == "nftables" {
		return ""
	}
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			variant, err := exec.LookPath(strings.Replace(n.backend, "iptables", name, 1) + verb)
			if err == nil {
				err = os.Symlink(variant, filepath.Join(dir, name+verb))
			}
			if err != nil {
				t.Fatalf("%s: %v", n.backend, err)
			}
		}
	}
	return dir + ":" + os.Getenv("PATH")
}

// stopwatch adds up the time that plugins take from before fork to after wait, and their
// CPU's; what libcni does between them is the same for all.
type stopwatch struct {
	invoke.DefaultExec
	path       string // PATH; empty: this process's own
	total, cpu time.Duration
}

func (w *stopwatch) time(fn func() error) (time.Duration, error) {
	w.total, w.cpu = 0, 0
	err := fn()
	return w.total, err
}

// ExecPlugin is that of libcni, timed.
func (w *stopwatch) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) (out []byte, err error) {
	if w.path != "" {
		env = append(slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "PATH=") }), "PATH="+w.path)
	}
	exec := invoke.RawExec{Stderr: os.Stderr}
	w.watch(func() { out, err = exec.ExecPlugin(ctx, path, stdin, env) })
	return out, err
}

// run is a program that is no plugin, timed.
func (w *stopwatch) run(program string, args ...string) (err error) {
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	w.watch(func() { err = cmd.Run() })
	return err
}

func (w *stopwatch) watch(run func()) {
	cpu, began := cpuOf(unix.RUSAGE_CHILDREN), time.Now()
	run()
	w.total += time.Since(began)
	w.cpu += cpuOf(unix.RUSAGE_CHILDREN) - cpu
}

// cpuOf is the time that the children which were waited for, or the thread, have had.
func cpuOf(who int) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(who, &usage); err != nil {
		return 0 // it fails for bad arguments alone
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func (n network) portMappings() []map[string]any {
	var mappings []map[string]any
	for i := range n.ports {
		mappings = append(mappings, map[string]any{"hostPort": 8000 + i, "containerPort": 80 + i, "protocol": "tcp"})
	}
	return mappings
}

// list is the network list, as JSON.
func (n network) list() string {
	ranges := `[{"subnet": "10.22.0.0/16"}]`
	if n.dualStack {
		ranges += `, [{"subnet": "fd22::/64"}]`
	}
	backends := [2]string{}
	if backend, _, _ := strings.Cut(n.backend, "-"); backend != "" {
		backends = [2]string{fmt.Sprintf(`, "ipMasqBackend": %q`, backend), fmt.Sprintf(`, "backend": %q`, backend)}
	}
	capability := ""
	if n.oneExec {
		capability = `, "capabilities": {"portMappings": true}`
	}
	if n.noLinkLocal {
		capability += `, "ipv6LinkLocal": false`
	}
	main, routes := `"type": "bridge", "bridge": "br0", "isDefaultGateway": true`, ""
	if n.ptp {
		main, routes = `"type": "ptp"`, `, "routes": [{"dst": "0.0.0.0/0"}]`
	}
	plugins := fmt.Sprintf(`{%s, "ipMasq": %t%s%s,
		"ipam": {"type": "host-local", "ranges": [%s]%s}}`, main, n.masq, backends[0], capability, ranges, routes)
	if n.ports > 0 && !n.oneExec {
		plugins += fmt.Sprintf(`, {"type": "portmap", "capabilities": {"portMappings": true}%s}`, backends[1])
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "bench", "plugins": [%s]}`, plugins)
}

// gcConfig is what a runtime sends bridge at GC.
func (n network) gcConfig(valid []string) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "bench", "type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}]]}, "cni.dev/valid-attachments": [%s]}`, strings.Join(valid, ", "))
}
