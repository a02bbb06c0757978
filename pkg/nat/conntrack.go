package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// stale says whether a tracked flow to a mapping's host address and port is to be deleted.
type stale func(f flow, m Mapping) bool

// staleAtAdd selects flows that do not lead to the container: they began before the mapping,
// and only the first packet of a flow passes the chains of type nat.
func staleAtAdd(f flow, m Mapping) bool { return !staleAtDel(f, m) }

// staleAtDel selects flows that lead to the container.
func staleAtDel(f flow, m Mapping) bool { return f.answers == m.Container }

// forgetFlows deletes stale flows to the mappings from conntrack: of UDP, and of SCTP, whose
// clients keep their port, and begin an association anew within its flow. TCP does not need that,
// since a new connection is a new flow: with ports of TCP alone the kernel is not asked. With many
// flows it takes a while, so callers hold no lock.
func forgetFlows(mappings []Mapping, stale stale) error {
	mappings = slices.DeleteFunc(slices.Clone(mappings), func(m Mapping) bool { return m.Protocol == TCP })
	if len(mappings) == 0 {
		return nil
	}
	tracker, err := openTracker()
	if err == nil {
		err = errors.Join(forgetFlowsBy(tracker, mappings, stale), tracker.close())
	}
	if err != nil {
		return fmt.Errorf("delete stale flows to mapped ports: %w", err)
	}
	return nil
}

func forgetFlowsBy(t *tracker, mappings []Mapping, stale stale) error {
	hosts := &hostAddresses{}
	for _, f := range families() {
		own := slices.DeleteFunc(slices.Clone(mappings), func(m Mapping) bool { return m.Host.Addr().Is4() != f.is4 })
		for _, asked := range questions(own) {
			flows, err := t.list(f, asked)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil // a kernel without ctnetlink tracks nothing that could be deleted
			}
			if err == nil {
				err = t.deleteAll(f, flows, func(flow flow) (bool, error) { return isStale(flow, own, hosts, stale) })
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteAll deletes the flows for which gone is true.
func (t *tracker) deleteAll(f family, flows []flow, gone func(flow) (bool, error)) error {
	for _, flow := range flows {
		yes, err := gone(flow)
		if err == nil && yes {
			err = t.delete(f, flow)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxQuestions bounds the requests: the kernel goes through all flows for each.
const maxQuestions = 8

// questions returns the filters to list flows by: one for each port, or one for each protocol if
// there are many ports.
func questions(mappings []Mapping) []flowFilter {
	var ports, protocols []flowFilter
	add := func(to *[]flowFilter, f flowFilter) {
		if !slices.Contains(*to, f) {
			*to = append(*to, f)
		}
	}
	for _, m := range mappings {
		add(&ports, flowFilter{m.Protocol.number(), m.Host.Port()})
		add(&protocols, flowFilter{protocol: m.Protocol.number()})
	}
	if len(ports) > maxQuestions {
		return protocols
	}
	return ports
}

func isStale(f flow, mappings []Mapping, hosts *hostAddresses, stale stale) (bool, error) {
	for _, m := range mappings {
		if f.protocol != m.Protocol.number() || f.to.Port() != m.Host.Port() || !stale(f, m) {
			continue
		}
		reaches, err := hosts.reaches(f.to.Addr(), m)
		if err != nil || reaches {
			return reaches, err
		}
	}
	return false, nil
}

// hostAddresses are the host's addresses, listed when they are first needed.
type hostAddresses struct{ all map[netip.Addr]bool }

// reaches says whether a flow's destination is the mapping's host address. Flows to the
// same port of another machine only pass through this host.
func (h *hostAddresses) reaches(to netip.Addr, m Mapping) (bool, error) {
	if !m.anyHost() {
		return to == m.Host.Addr(), nil
	}
	if to.IsLoopback() {
		return true, nil
	}
	if h.all == nil {
		list, err := listAddresses()
		if err != nil {
			return false, err
		}
		h.all = map[netip.Addr]bool{}
		for _, a := range list {
			if address, ok := netip.AddrFromSlice(a.IP); ok {
				h.all[address.Unmap()] = true
			}
		}
	}
	return h.all[to], nil
}

// listAddresses lists the host's addresses.
func listAddresses() ([]netlink.Addr, error) {
	list, err := dump.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	return list, nil
}
