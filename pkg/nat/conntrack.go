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

// stale says whether a tracked UDP flow to a mapping's host port, of which the
// host address fits, is one that must go.
type stale func(f flow, m Mapping) bool

// staleAtAdd are flows from before the mapping: the kernel would go on treating
// the client's packets as it did, since only the first one is looked up.
func staleAtAdd(f flow, m Mapping) bool { return !staleAtDel(f, m) }

// staleAtDel are flows that lead to the container.
func staleAtDel(f flow, m Mapping) bool { return f.answers == m.Container }

// forgetFlows deletes what conntrack knows of stale UDP flows to the mappings; where no
// UDP port is mapped nothing is asked. TCP needs none of it: a new connection is a new
// flow. It may take some time where there are many flows, and belongs outside of locks.
func forgetFlows(mappings []Mapping, stale stale) error {
	udp := slices.DeleteFunc(slices.Clone(mappings), func(m Mapping) bool { return m.Protocol != UDP })
	if len(udp) == 0 {
		return nil
	}
	tracker, err := openTracker()
	if err == nil {
		err = errors.Join(forgetFlowsBy(tracker, udp, stale), tracker.close())
	}
	if err != nil {
		return fmt.Errorf("delete stale UDP flows to mapped ports: %w", err)
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

// deleteAll deletes those of the flows that gone is true of.
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

// The kernel looks at all flows for each question.
const maxQuestions = 8

// questions are which flows the kernel is to tell of: those to one of the ports, or all
// of UDP where that is many ports.
func questions(mappings []Mapping) []flowFilter {
	var filters []flowFilter
	for _, m := range mappings {
		if f := (flowFilter{port: m.Host.Port()}); !slices.Contains(filters, f) {
			filters = append(filters, f)
		}
	}
	if len(filters) > maxQuestions {
		return []flowFilter{{}}
	}
	return filters
}

func isStale(f flow, mappings []Mapping, hosts *hostAddresses, stale stale) (bool, error) {
	for _, m := range mappings {
		if f.protocol != UDP.number() || f.to.Port() != m.Host.Port() || !stale(f, m) {
			continue
		}
		reaches, err := hosts.reaches(f.to.Addr(), m)
		if err != nil || reaches {
			return reaches, err
		}
	}
	return false, nil
}

// hostAddresses are the host's, once they are needed.
type hostAddresses struct{ all map[netip.Addr]bool }

// reaches says whether a flow's destination is the mapping's host address: a flow to
// the same port of another machine is none of ours.
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
