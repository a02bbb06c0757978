package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/plugins/translator"
	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// growth is how ADD and DEL take longer with what is there already.
func growth(t host.T, s size) []measure.Section {
	one := network{masq: true, ports: 1, oneExec: true}
	chain := network{masq: true, ports: 1}
	noLinkLocal := one
	noLinkLocal.noLinkLocal = true
	peer := network{masq: true, ports: 1, backend: "nftables", reference: true}
	var beside, gc, leases, mapped []func() measure.Variant
	for _, n := range s.attachments {
		beside = append(beside, variant(fmt.Sprintf("trestle beside %d", n), func() round { return besideOthers(t, one, n) }))
	}
	last := s.attachments[len(s.attachments)-1]
	beside = append(beside, variant(fmt.Sprintf("…, ipv6LinkLocal false, beside %d", last), func() round { return besideOthers(t, noLinkLocal, last) }),
		variant("reference, nftables, beside 0", func() round { return besideOthers(t, peer, 0) }),
		variant(fmt.Sprintf("reference, nftables, beside %d", s.peers), func() round { return besideOthers(t, peer, s.peers) }))
	for _, n := range []int{1, last} {
		gc = append(gc, variant(fmt.Sprintf("beside %d", n), func() round { return collecting(t, one, n) }))
	}
	for _, n := range s.leases {
		leases = append(leases, variant(fmt.Sprintf("trestle beside %d", n), func() round { return leasing(t, n, false) }))
	}
	for _, n := range s.leases {
		leases = append(leases, variant(fmt.Sprintf("reference beside %d", n), func() round { return leasing(t, n, true) }))
	}
	for _, n := range []int{0, s.mappings / 50, s.mappings / 5, s.mappings} {
		mapped = append(mapped, variant(fmt.Sprintf("trestle beside %d", n), func() round { return besideMappings(t, n) }))
	}
	return []measure.Section{
		{Title: "Attachments that stand already, 1 port", Operations: addDel, Rounds: 11, Setup: variants(beside)},
		{Title: "GC that keeps all", Operations: []string{"GC"}, Rounds: 11, Setup: variants(gc)},
		{
			Title: fmt.Sprintf("CPU of trestle's commands beside %d attachments", last), Operations: []string{"CPU"}, Rounds: 5,
			Note:  "User and system time of the command and all that it runs. The design allows 300 ms.",
			Setup: func() []measure.Variant { return commands(t, chain, last) },
		},
		{Title: "Leases that stand already, host-local alone", Operations: addDel[:2], Rounds: 11, Setup: variants(leases)},
		{Title: "Port mappings that stand already, 1 port", Operations: addDel, Setup: variants(mapped)},
	}
}

type round = func() ([]time.Duration, error)

// variant is made when its section is measured, not before.
func variant(name string, prepare func() round) func() measure.Variant {
	return func() measure.Variant { return measure.Variant{Name: name, Round: prepare()} }
}

func variants(makers []func() measure.Variant) func() []measure.Variant {
	return func() []measure.Variant {
		var all []measure.Variant
		for _, maker := range makers {
			all = append(all, maker())
		}
		return all
	}
}

// besideOthers is attaching, on a host where so many others are attached.
func besideOthers(t host.T, n network, others int) round {
	return attachingOn(t, host.New(t), n, others)
}

// besideMappings is attaching, on a host that has so many mappings, as records and rules.
func besideMappings(t host.T, mappings int) round {
	h := host.New(t)
	n := network{masq: true, ports: 1, oneExec: true}
	attach := attachingOn(t, h, n, 1)
	if err := h.Do(func() error { return mapPorts(mappings) }); err != nil {
		t.Fatalf("map %d ports: %v", mappings, err)
	}
	return attach
}

// mapPorts maps the ports of others, five each, without the cost of a process for each.
func mapPorts(count int) error {
	const each = 5
	conn, h := translator.Open()
	defer conn.Close()
	for i := range count / each {
		address := netip.AddrFrom4([4]byte{10, 22, byte(100 + i/250), byte(1 + i%250)})
		p := nat.Ports{Subnets: []netip.Prefix{netip.PrefixFrom(address, 16)}, Bridge: "br0", PortOptions: nat.PortOptions{SNAT: true}}
		for port := range each {
			p.Mappings = append(p.Mappings, nat.Mapping{
				Protocol: nat.TCP, Host: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(20000+each*i+port)), Container: netip.AddrPortFrom(address, uint16(80+port)),
			})
		}
		var undo cni.Undo
		owner := cni.Owner{Network: "bench", ContainerID: fmt.Sprintf("r%d", i), IfName: "eth0"}
		if err := h.Add(nat.Attachment{Owner: owner, Ports: &p, PortsBackend: nat.NFTables}, &undo); err != nil {
			return err
		}
	}
	return nil
}

// leasing is a round of host-local alone, beside so many leases of others.
func leasing(t host.T, leases int, reference bool) round {
	h := host.New(t)
	c := h.Container("c1")
	program := filepath.Join(h.Dirs().Trestle, "host-local")
	if reference {
		program = filepath.Join(h.Dirs().Reference, "host-local")
	}
	if err := h.Do(func() error { return fillPool(leases) }); err != nil {
		t.Fatalf("fill the pool: %v", err)
	}
	const config = `{"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}]]}}`
	watch := &stopwatch{}
	call := func(command string) (time.Duration, error) {
		env := append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c1", "CNI_NETNS="+c.NetNS, "CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(program))
		return watch.time(func() error {
			return h.Do(func() error {
				_, err := watch.ExecPlugin(context.Background(), program, []byte(config), env)
				return err
			})
		})
	}
	return func() ([]time.Duration, error) {
		add, err := call("ADD")
		if err != nil {
			return nil, err
		}
		del, err := call("DEL")
		return []time.Duration{add, del}, err
	}
}

// fillPool makes the first leases of the subnet, as host-local writes them.
func fillPool(leases int) error {
	dir := "/var/lib/cni/networks/bench"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	address := netip.MustParseAddr("10.22.0.2")
	for i := range leases {
		if err := os.WriteFile(filepath.Join(dir, address.String()), fmt.Appendf(nil, "other%d\r\neth0", i), 0o600); err != nil {
			return err
		}
		address = address.Next()
	}
	if leases == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "last_reserved_ip.0"), []byte("10.22.0.1"), 0o600)
}

// crowds is how long many at once take.
func crowds(t host.T, s size) []measure.Section {
	one := network{masq: true, ports: 1, oneExec: true}
	chain := network{masq: true, ports: 1}
	peer := network{masq: true, ports: 1, backend: "nftables", reference: true}
	var sections []measure.Section
	for _, n := range s.crowds {
		makers := []func() measure.Variant{
			variant("trestle, bridge alone", func() round { return crowd(t, one, n) }),
			variant("trestle, bridge, portmap", func() round { return crowd(t, chain, n) }),
		}
		if n <= s.peerCrowd {
			makers = append(makers, variant("reference, nftables", func() round { return crowd(t, peer, n) }))
		}
		sections = append(sections, measure.Section{
			Title: fmt.Sprintf("%d at once, 1 port each", n), Operations: []string{"ADD, all", "ADD, p50", "ADD, p99", "DEL, all", "DEL, p50", "DEL, p99"},
			Rounds: max(3, 20/n), Setup: variants(makers),
		})
	}
	return sections
}

// crowd is a round of so many ADDs at once, until all are done, and then of as many
// DELs; and what half of them, and all but one in a hundred, had done by.
func crowd(t host.T, n network, size int) round {
	h := host.New(t)
	list := h.Network(n.list()) // without a watch, which is for one at a time
	if n.reference {
		list.Path = []string{h.Dirs().Reference}
	}
	if _, err := list.Add(h.Container("resident").Attachment()); err != nil {
		t.Fatalf("%s: %v", n.list(), err)
	}
	var all []*attachment
	for i := range size {
		a := h.Container(fmt.Sprintf("c%d", i)).Attachment()
		a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8000 + i, "containerPort": 80, "protocol": "tcp"}}
		all = append(all, a)
	}
	return func() ([]time.Duration, error) {
		add, err := together(all, func(a *attachment) error {
			_, err := list.Add(a)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("ADD: %w", err)
		}
		time.Sleep(measure.Pause)
		del, err := together(all, list.Del)
		if err != nil {
			return nil, fmt.Errorf("DEL: %w", err)
		}
		return append(add, del...), nil
	}
}

func together(all []*attachment, do func(*attachment) error) ([]time.Duration, error) {
	var wait sync.WaitGroup
	failed, took := make([]error, len(all)), make([]time.Duration, len(all))
	began := time.Now()
	for i, a := range all {
		wait.Go(func() {
			failed[i] = do(a)
			took[i] = time.Since(began)
		})
	}
	wait.Wait()
	whole := time.Since(began)
	return []time.Duration{whole, percentile(took, 50), percentile(took, 99)}, errors.Join(failed...)
}

// percentile is the smallest of them that so many in a hundred do not exceed.
func percentile(took []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[(len(sorted)*percent-1)/100]
}
