package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// network is what a variant's network list says.
type network struct {
	dualStack bool
	masq      bool
	ports     int
	backend   string // of masquerade and ports, for the reference plugins
	oneExec   bool   // bridge maps the ports itself
	alone     bool   // no other container is on the network
	// noLinkLocal is Trestle's "ipv6LinkLocal": false.
	noLinkLocal bool
	reference   bool // the reference plugins serve it
}

// attachments are the tables of whole attachments.
func attachments(t host.T) []measure.Section {
	backends := []string{"nftables", "iptables"}
	return []measure.Section{
		compare(t, "bridge + host-local", network{}),
		compare(t, "bridge + host-local, dual-stack", network{dualStack: true}),
		compare(t, "bridge + host-local, ipMasq", network{masq: true}, backends...),
		compare(t, "… + portmap with 1 port", network{masq: true, ports: 1}, backends...),
		compare(t, "… + portmap with 10 ports", network{masq: true, ports: 10}, backends...),
	}
}

// compare is the table of Trestle and the reference plugins, these with each of
// the backends, if the network has use for one.
func compare(t host.T, title string, n network, backends ...string) measure.Section {
	setup := func() []measure.Variant {
		n := n
		variants := []measure.Variant{{Name: "trestle", Round: attaching(t, n)}}
		n.reference = true
		if len(backends) == 0 {
			variants = append(variants, measure.Variant{Name: "reference", Round: attaching(t, n)})
		}
		for _, backend := range backends {
			n.backend = backend
			variants = append(variants, measure.Variant{Name: "reference, " + backend, Round: attaching(t, n)})
		}
		return variants
	}
	return measure.Section{Title: title, Operations: []string{"ADD", "DEL"}, Setup: setup}
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
	list := h.Network(n.list())
	if n.reference {
		list.Path = []string{h.Dirs().Reference}
	}
	for i := range others {
		other := h.Container(fmt.Sprintf("other%d", i)).Attachment()
		if n.ports > 0 {
			other.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 10_000 + i, "containerPort": 80, "protocol": "tcp"}}
		}
		if _, err := list.Add(other); err != nil {
			t.Fatalf("%s: %v", n.list(), err)
		}
	}
	watch := &stopwatch{}
	list.Exec = watch
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
		time.Sleep(measure.Pause)
		del, err := watch.time(func() error { return list.Del(attachment) })
		if err != nil {
			return nil, fmt.Errorf("DEL: %w", err)
		}
		return []time.Duration{add, del}, nil
	}
}

// stopwatch adds up the time that plugins take from before fork to after wait;
// what libcni does between them is the same for all.
type stopwatch struct {
	invoke.DefaultExec
	total time.Duration
}

func (w *stopwatch) time(fn func() error) (time.Duration, error) {
	w.total = 0
	err := fn()
	return w.total, err
}

// ExecPlugin is that of libcni, timed.
func (w *stopwatch) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	exec := invoke.RawExec{Stderr: os.Stderr}
	began := time.Now()
	out, err := exec.ExecPlugin(ctx, path, stdin, env)
	w.total += time.Since(began)
	return out, err
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
	if n.backend != "" {
		backends = [2]string{fmt.Sprintf(`, "ipMasqBackend": %q`, n.backend), fmt.Sprintf(`, "backend": %q`, n.backend)}
	}
	capability := ""
	if n.oneExec {
		capability = `, "capabilities": {"portMappings": true}`
	}
	if n.noLinkLocal {
		capability += `, "ipv6LinkLocal": false`
	}
	plugins := fmt.Sprintf(`{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": %t%s%s,
		"ipam": {"type": "host-local", "ranges": [%s]}}`, n.masq, backends[0], capability, ranges)
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
