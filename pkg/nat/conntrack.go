package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stale says whether a tracked UDP flow to a mapping's host port, of which the
// host address fits, is one that must go.
type stale func(flow *netlink.ConntrackFlow, m Mapping) bool

// staleAtAdd are flows from before the mapping: the kernel would go on treating
// the client's packets as it did, since only the first one is looked up.
func staleAtAdd(flow *netlink.ConntrackFlow, m Mapping) bool { return !staleAtDel(flow, m) }

// staleAtDel are flows that lead to the container.
func staleAtDel(flow *netlink.ConntrackFlow, m Mapping) bool {
	return addrOf(flow.Reverse.SrcIP) == m.Container.Addr() && flow.Reverse.SrcPort == m.Container.Port()
}

// forgetFlows deletes what conntrack knows of stale UDP flows to the mappings.
// TCP needs none of it: a new connection is a new flow.
func forgetFlows(mappings []Mapping, stale stale) error {
	for _, f := range families() {
		filter := &flowFilter{family: f, stale: stale}
		for _, m := range mappings {
			if m.Protocol == UDP && m.Host.Addr().Is4() == f.is4 {
				filter.mappings = append(filter.mappings, m)
			}
		}
		if len(filter.mappings) == 0 {
			continue
		}
		if err := filter.forget(); err != nil {
			return fmt.Errorf("delete stale UDP flows to mapped ports: %w", err)
		}
	}
	return nil
}

// flowFilter picks flows for netlink.ConntrackDeleteFilters.
type flowFilter struct {
	family   family
	mappings []Mapping
	stale    stale
	locals   map[netip.Addr]bool // the host's addresses, once they are needed
	err      error
}

func (f *flowFilter) forget() error {
	family := netlink.InetFamily(unix.AF_INET6)
	if f.family.is4 {
		family = unix.AF_INET
	}
	var err error
	for range 3 { // a table that changes meanwhile is read again
		_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil // a kernel without ctnetlink; or every flow that was there at the start has been seen
	}
	return errors.Join(err, f.err)
}

// MatchConntrackFlow says whether the flow is to be deleted.
func (f *flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != UDP.number() {
		return false
	}
	for _, m := range f.mappings {
		if flow.Forward.DstPort == m.Host.Port() && f.reaches(flow, m) && f.stale(flow, m) {
			return true
		}
	}
	return false
}

// reaches says whether the flow's destination is the mapping's host address: a
// flow to the same port of another machine is none of ours.
func (f *flowFilter) reaches(flow *netlink.ConntrackFlow, m Mapping) bool {
	to := addrOf(flow.Forward.DstIP)
	if !m.anyHost() {
		return to == m.Host.Addr()
	}
	if to.IsLoopback() {
		return true
	}
	if f.locals == nil {
		f.locals, f.err = localAddresses()
	}
	return f.locals[to]
}

func localAddresses() (map[netip.Addr]bool, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	locals := map[netip.Addr]bool{}
	for _, a := range list {
		locals[addrOf(a.IP)] = true
	}
	return locals, nil
}

func addrOf(ip []byte) netip.Addr {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{} // equal to no address of a mapping
	}
	return addr.Unmap()
}
