package main

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// targets are the tables that the design's figures are read from: each beside what no
// plugin can do without, processes that do nothing and the kernel's own deletion.
func targets(t host.T, _ size) []measure.Section {
	one := network{masq: true, ports: 1, oneExec: true}
	chain := network{masq: true, ports: 1}
	peer := network{masq: true, ports: 1, backend: "nftables", reference: true}
	with := func(n network, edit func(*network)) network {
		edit(&n)
		return n
	}
	like := func(name string, n network) measure.Variant {
		return measure.Variant{Name: name, Round: attaching(t, n)}
	}
	return []measure.Section{
		{Title: "One process, 1 port", Operations: addDel, Setup: func() []measure.Variant {
			return []measure.Variant{{Name: "1 empty exec; RTM_DELLINK", Round: floor(t, 1)}, {Name: "raw netlink, one process", Round: rawNetlink(t)}, like("trestle, bridge alone", one), like("reference, nftables", peer)}
		}},
		{Title: "A chain of bridge and portmap, 1 port", Operations: addDel, Setup: func() []measure.Variant {
			return []measure.Variant{{Name: "2 empty execs; RTM_DELLINK", Round: floor(t, 2)}, like("trestle, bridge, portmap", chain), like("reference, nftables", peer)}
		}},
		{Title: "Which container", Operations: addDel, Setup: func() []measure.Variant {
			return []measure.Variant{
				like("one of several", one),
				like("the only one", with(one, func(n *network) { n.alone = true })),
				like("the first and last", with(one, func(n *network) { n.alone, n.fresh = true, true })),
				like("dual-stack", with(one, func(n *network) { n.dualStack = true })),
				like("10 ports", with(one, func(n *network) { n.ports = 10 })),
				like("reference, nftables", peer),
				like("…, the only one", with(peer, func(n *network) { n.alone = true })),
				like("…, the first and last", with(peer, func(n *network) { n.alone, n.fresh = true, true })),
				like("…, dual-stack", with(peer, func(n *network) { n.dualStack = true })),
				like("…, 10 ports", with(peer, func(n *network) { n.ports = 10 })),
			}
		}},
	}
}

// floor is as many processes as ADD has, which do nothing, and then the deletion of a
// veth pair with its peer in another namespace.
func floor(t host.T, execs int) func() ([]time.Duration, error) {
	h, program := host.New(t), build(t, "empty")
	h.Container("c1")
	watch := &stopwatch{}
	return func() ([]time.Duration, error) {
		add, err := watch.time(func() error {
			for range execs {
				if err := watch.run(program); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		h.MustRun("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", "c1")
		time.Sleep(measure.Pause)
		var del, delCPU time.Duration
		err = h.Do(func() error {
			link, err := netlink.LinkByName("v0")
			if err != nil {
				return err
			}
			cpu, began := cpuOf(unix.RUSAGE_THREAD), time.Now()
			err = netlink.LinkDel(link)
			del, delCPU = time.Since(began), cpuOf(unix.RUSAGE_THREAD)-cpu
			return err
		})
		return []time.Duration{add, del, watch.cpu, delCPU}, err
	}
}

// collecting is a round of a GC that keeps all of so many attachments.
func collecting(t host.T, n network, attachments int) func() ([]time.Duration, error) {
	h := host.New(t)
	valid := populate(t, h, n, attachments)
	return func() ([]time.Duration, error) {
		return gcRound(h, n, valid)
	}
}

// populate attaches so many containers, and says how GC's list names them.
func populate(t host.T, h *host.Host, n network, attachments int) (valid []string) {
	list := h.Network(n.list())
	for i := range attachments {
		a := h.Container(fmt.Sprintf("c%d", i)).Attachment()
		a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8000 + i, "containerPort": 80, "protocol": "tcp"}}
		if _, err := list.Add(a); err != nil {
			t.Fatalf("attachment %d: %v", i, err)
		}
		valid = append(valid, fmt.Sprintf(`{"containerID": %q, "ifname": "eth0"}`, a.ContainerID))
	}
	return valid
}

func gcRound(h *host.Host, n network, valid []string) ([]time.Duration, error) {
	watch := &stopwatch{}
	took, err := watch.time(func() error {
		return h.Do(func() error {
			_, err := watch.ExecPlugin(context.Background(), h.Dirs().Trestle+"/bridge", []byte(n.gcConfig(valid)), []string{"CNI_COMMAND=GC", "CNI_PATH=" + h.Dirs().Trestle})
			return err
		})
	})
	return []time.Duration{took}, err
}
