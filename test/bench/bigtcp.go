package main

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// bigTCP is what packets larger than 64 KiB inside the host would gain, and lose where a link
// cannot send them: a network card's limit (tso_max_size) is 64 KiB, as a rule.
func bigTCP(t host.T, s size) measure.Section {
	ours := network{masq: true, ports: 1, oneExec: true}
	row := func(name string, way way, prepare func(*host.Host, ...*host.Container) error) func() measure.Variant {
		return variant(name, func() round {
			return flowing(t, ours, flow{way: way, bytes: s.stream, prepare: prepare, streamAlone: true})
		})
	}
	return measure.Section{
		Title: "BIG TCP", Operations: []string{"TCP"}, Units: []measure.Unit{measure.Rate("Gbit/s", gigabits(s.stream))}, Rounds: s.flows(), Note: bigTCPNote,
		Setup: variants([]func() measure.Variant{
			row("between containers", toNeighbour, nil),
			row("…, all links with 192 KiB", toNeighbour, enlarge),
			row("to the world", toWorld, nil),
			row("…, all links but the uplink with 192 KiB", toWorld, enlarge),
		}),
	}
}

const bigTCPNote = `Segments of up to 192 KiB on the containers' links and the bridge (gso_max_size, gro_max_size, and the same of IPv4), which the kernel cuts
where a link takes no more than 64 KiB, as network cards do as a rule. There is no key for it: containers of one host gain, but they exchange far
more than networks carry already, and all that leaves the host loses.`

// largest is as large as the kernel's documents have it (BIG TCP).
const largest = 192 << 10

// enlarge sets the sizes on the bridge and on both ends of the containers' links.
func enlarge(h *host.Host, containers ...*host.Container) error {
	err := h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			if name := link.Attrs().Name; name == "lo" || name == host.Uplink {
				continue
			}
			if err := enlargeLink(link); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range containers {
		if err != nil {
			return err
		}
		err = c.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return enlargeLink(link)
		})
	}
	return err
}

func enlargeLink(link netlink.Link) error {
	for what, set := range map[string]func(netlink.Link, int) error{
		"gso_max_size": netlink.LinkSetGSOMaxSize, "gro_max_size": netlink.LinkSetGROMaxSize,
		"gso_ipv4_max_size": netlink.LinkSetGSOIPv4MaxSize, "gro_ipv4_max_size": netlink.LinkSetGROIPv4MaxSize,
	} {
		if err := set(link, largest); err != nil {
			return fmt.Errorf("%s of %s: %w", what, link.Attrs().Name, err)
		}
	}
	return nil
}
