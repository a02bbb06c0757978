package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// targets are the tables that the design's figures are read from: each beside what no
// plugin can do without, processes that do nothing and the kernel's own deletion.
func targets(t host.T) []measure.Section {
	one := network{masq: true, ports: 1, oneExec: true}
	chain := network{masq: true, ports: 1}
	peer := network{masq: true, ports: 1, backend: "nftables"}
	with := func(n network, edit func(*network)) network {
		edit(&n)
		return n
	}
	addDel := []string{"ADD", "DEL"}
	variant := func(name string, n network, reference bool) measure.Variant {
		return measure.Variant{Name: name, Round: attaching(t, n, reference)}
	}
	return []measure.Section{
		{Title: "target: one exec, 1 port", Operations: addDel, Setup: func() []measure.Variant {
			return []measure.Variant{{Name: "1 empty exec; RTM_DELLINK", Round: floor(t, 1)}, variant("trestle, bridge alone", one, false), variant("reference, nftables", peer, true)}
		}},
		{Title: "target: chain, 1 port", Operations: addDel, Setup: func() []measure.Variant {
			return []measure.Variant{{Name: "2 empty execs; RTM_DELLINK", Round: floor(t, 2)}, variant("trestle, bridge, portmap", chain, false), variant("reference, nftables", peer, true)}
		}},
		{Title: "target: which container", Operations: addDel, Setup: func() []measure.Variant {
			return []measure.Variant{
				variant("one of several", one, false),
				variant("the only one", with(one, func(n *network) { n.alone = true }), false),
				variant("dual-stack", with(one, func(n *network) { n.dualStack = true }), false),
				variant("10 ports", with(one, func(n *network) { n.ports = 10 }), false),
			}
		}},
		{Title: "target: 100 at once, 1 port", Operations: addDel, Rounds: 3, Setup: func() []measure.Variant {
			return []measure.Variant{
				{Name: "trestle, bridge alone", Round: crowd(t, one, false)},
				{Name: "trestle, bridge, portmap", Round: crowd(t, chain, false)},
				{Name: "reference, nftables", Round: crowd(t, peer, true)},
			}
		}},
		{Title: "target: GC", Operations: []string{"GC"}, Rounds: 10, Setup: func() []measure.Variant {
			return []measure.Variant{{Name: "beside 1", Round: collecting(t, one, 1)}, {Name: "beside 1,000", Round: collecting(t, one, 1000)}}
		}},
	}
}

// floor is as many processes as ADD has, which do nothing, and then the deletion of a
// veth pair with its peer in another namespace.
func floor(t host.T, execs int) func() ([]time.Duration, error) {
	h, program := host.New(t), buildEmpty(t)
	h.Container("c1")
	empty := running(h, program, "VERSION")
	return func() ([]time.Duration, error) {
		var add time.Duration
		for range execs {
			took, err := empty()
			if err != nil {
				return nil, err
			}
			add += took[0]
		}
		h.MustRun("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", "c1")
		time.Sleep(measure.Pause)
		var del time.Duration
		err := h.Do(func() error {
			link, err := netlink.LinkByName("v0")
			if err != nil {
				return err
			}
			began := time.Now()
			err = netlink.LinkDel(link)
			del = time.Since(began)
			return err
		})
		return []time.Duration{add, del}, err
	}
}

// crowd is a round of a hundred ADDs at once, until all are done, and then of as many
// DELs.
func crowd(t host.T, n network, reference bool) func() ([]time.Duration, error) {
	const size = 100
	h := host.New(t)
	list := h.Network(n.list())
	if reference {
		list.Path = []string{h.Dirs().Reference}
	}
	if _, err := list.Add(h.Container("resident").Attachment()); err != nil {
		t.Fatalf("%s: %v", n.list(), err)
	}
	var all []*libcni.RuntimeConf
	for i := range size {
		a := h.Container(fmt.Sprintf("c%d", i)).Attachment()
		a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8000 + i, "containerPort": 80, "protocol": "tcp"}}
		all = append(all, a)
	}
	together := func(do func(*libcni.RuntimeConf) error) (time.Duration, error) {
		var wait sync.WaitGroup
		failed := make([]error, size)
		began := time.Now()
		for i, a := range all {
			wait.Go(func() { failed[i] = do(a) })
		}
		wait.Wait()
		took := time.Since(began)
		for _, err := range failed {
			if err != nil {
				return 0, err
			}
		}
		return took, nil
	}
	return func() ([]time.Duration, error) {
		add, err := together(func(a *libcni.RuntimeConf) error {
			_, err := list.Add(a)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("ADD: %w", err)
		}
		time.Sleep(measure.Pause)
		del, err := together(list.Del)
		if err != nil {
			return nil, fmt.Errorf("DEL: %w", err)
		}
		return []time.Duration{add, del}, nil
	}
}

// collecting is a round of a GC that keeps all of so many attachments.
func collecting(t host.T, n network, attachments int) func() ([]time.Duration, error) {
	h := host.New(t)
	list := h.Network(n.list())
	var valid []string
	for i := range attachments {
		a := h.Container(fmt.Sprintf("c%d", i)).Attachment()
		a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8000 + i, "containerPort": 80, "protocol": "tcp"}}
		if _, err := list.Add(a); err != nil {
			t.Fatalf("attachment %d: %v", i, err)
		}
		valid = append(valid, fmt.Sprintf(`{"containerID": %q, "ifname": "eth0"}`, a.ContainerID))
	}
	return func() ([]time.Duration, error) {
		return gcRound(h, n, valid)
	}
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
