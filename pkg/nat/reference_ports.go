package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// referenceChains returns the chains of a table in which the reference plugin portmap maps
// host ports, in both families: the table of its nftables backend, or table nat of iptables'
// nft variant (plugins/meta/portmap, portmap_{nftables,iptables}.go).
func referenceChains(table string) []string {
	switch table {
	case "cni_hostport":
		return []string{"hostports", "hostip_hostports"}
	case natTable:
		return []string{dnatChain}
	}
	return nil
}

// refuseReference returns an error if the reference plugin portmap has mapped one of f's host
// ports to another container: a host may have been switched over while its containers ran.
// If nobody has that container's address any more, the rules are deleted instead. Rules of
// iptables-legacy, which netlink does not show, are left to the iptables backend
// (ipTables.isStale).
//
// Without such rules it takes one message, and two more for each table nat of iptables. It
// changes nothing of ours and may wait for neighbours, so it is called before the lock is
// taken.
func (h *Host) refuseReference(f ownedPorts) error {
	tables, err := h.conn.Tables()
	if err != nil {
		return err
	}
	for _, table := range tables {
		for _, chain := range referenceChains(table.Name) {
			found, err := h.listReference(table, chain, f)
			if err != nil {
				return err
			}
			for _, taken := range found {
				if err := h.refuseTaken(f, taken); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// listReference returns the rules of a chain that map a host port of f to another container.
// Rules of iptables only have the port: the chain that they jump to has the target.
func (h *Host) listReference(in nft.Table, chain string, f ownedPorts) ([]referencePorts, error) {
	conn, err := h.conn.Library()
	if err != nil {
		return nil, err
	}
	table := &nftables.Table{Family: in.Family, Name: in.Name}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: chain})
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table %s: %w", chain, table.Name, err)
	}
	var found []referencePorts
	for _, rule := range rules {
		taken := readReferencePorts(rule)
		taken.is4 = table.Family == nftables.TableFamilyIPv4
		if !taken.inWayOf(f) {
			continue
		}
		if taken.chain == "" {
			found = append(found, taken)
			continue
		}
		rules, err := conn.GetRules(table, &nftables.Chain{Name: taken.chain})
		if err != nil {
			return nil, fmt.Errorf("list chain %s of nftables table %s: %w", taken.chain, table.Name, err)
		}
		for _, rule := range rules {
			if one := taken.with(rule); one.target.IsValid() && one.inWayOf(f) {
				found = append(found, one)
			}
		}
	}
	return found, nil
}

// refuseTaken returns an error with code 102, or deletes the rules if nobody has their target's
// address.
func (h *Host) refuseTaken(f ownedPorts, taken referencePorts) error {
	unused, err := isUnused(taken.target)
	if err != nil {
		return err
	}
	if unused {
		gone := reference{
			owner:     cni.Owner{Network: taken.network, ContainerID: taken.container, IfName: firstInterface},
			addresses: []netip.Addr{taken.target},
		}
		h.warn("delete rules of the reference plugins for container %s: nobody has its address %s", taken.container, taken.target)
		return gone.deleteFromNFTables(h.conn)
	}
	i := slices.IndexFunc(f.Mappings, taken.has)
	m := f.Mappings[i]
	m.Container = netip.AddrPortFrom(taken.target, 0)
	return referenceConflict(foundMapping{Mapping: m, owner: taken.container}, taken.command())
}

// referenceConflict names the container that has the port, and the command that deletes the
// rule.
func referenceConflict(m foundMapping, command string) error {
	return cni.ConflictErrorf("host port %s/%d on %s is taken by container %s, for which the reference plugins mapped it to %s; stop that container, choose another host port, or, if it is long gone: %s",
		m.Protocol, m.Host.Port(), hostName(m.Host.Addr()), m.owner, m.Container.Addr(), command)
}

// referencePorts is what one rule of the reference plugin portmap maps. host is the zero Addr
// if the rule is for all addresses.
type referencePorts struct {
	container string
	network   string // if the rule's comment names it
	is4       bool
	protocol  byte
	host      netip.Addr
	ports     []uint16
	target    netip.Addr
	chain     string // the chain that the rule jumps to
	place     string // family, table, chain and handle, for nft
}

func (p referencePorts) has(m Mapping) bool {
	if m.Host.Addr().Is4() != p.is4 || p.protocol != m.Protocol.number() || p.host.IsValid() && !m.anyHost() && p.host != m.Host.Addr() {
		return false
	}
	return slices.Contains(p.ports, m.Host.Port())
}

// inWayOf says whether the rule maps one of the ports to another container. A rule that names
// no container is not the reference's.
func (p referencePorts) inWayOf(f ownedPorts) bool {
	return p.container != "" && p.container != f.Owner.ContainerID && slices.ContainsFunc(f.Mappings, p.has)
}

// with adds to the jump p what a rule of the chain says that it jumps to.
func (p referencePorts) with(rule *nftables.Rule) referencePorts {
	one := readReferencePorts(rule)
	one.container, one.network, one.is4, one.chain = p.container, p.network, p.is4, p.chain
	return one
}

// command returns the command that deletes the rule.
func (p referencePorts) command() string {
	if p.chain == "" {
		return "nft delete rule " + p.place
	}
	program := family6().iptables().Program
	if p.is4 {
		program = family4().iptables().Program
	}
	return program + " -t nat -F " + p.chain
}

// readReferencePorts decodes the few expressions that such rules consist of: a load into a
// register and the comparison that follows it, or matches and targets of iptables.
func readReferencePorts(rule *nftables.Rule) referencePorts {
	found := referencePorts{container: commentOf(rule)}
	if rule.Table != nil && rule.Chain != nil {
		family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[rule.Table.Family]
		found.place = fmt.Sprintf("%s %s %s handle %d", family, rule.Table.Name, rule.Chain.Name, rule.Handle)
	}
	var loaded expr.Any
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload:
			loaded = e
		case *expr.Cmp:
			found.compare(loaded, e.Data)
		case *expr.Match:
			found.match(e)
		case *expr.Verdict:
			found.chain = e.Chain
		case *expr.Immediate:
			if address, ok := netip.AddrFromSlice(e.Data); ok {
				found.target = address
			}
		case *expr.Target:
			found.translate(e)
		}
	}
	return found
}

// translate decodes the address of iptables' target DNAT, of any revision.
func (p *referencePorts) translate(t *expr.Target) {
	var to xt.NatRange
	switch info := t.Info.(type) {
	case *xt.NatRange2:
		to = info.NatRange
	case *xt.NatRange:
		to = *info
	case *xt.NatIPv4MultiRangeCompat:
		if len(*info) > 0 {
			to = xt.NatRange((*info)[0])
		}
	}
	if address, ok := netip.AddrFromSlice(to.MinIP); ok {
		p.target = address.Unmap()
	}
}

// compare decodes a comparison of a register with data; loaded says what is in the register.
// Offsets are those of RFC 9293, section 3.1, of RFC 791 and of RFC 8200.
func (p *referencePorts) compare(loaded expr.Any, data []byte) {
	switch load := loaded.(type) {
	case *expr.Meta:
		if load.Key == expr.MetaKeyL4PROTO && len(data) == 1 {
			p.protocol = data[0]
		}
	case *expr.Payload:
		switch {
		case load.Base == expr.PayloadBaseTransportHeader && load.Offset == 2 && len(data) == 2:
			p.ports = append(p.ports, binary.BigEndian.Uint16(data))
		case load.Base == expr.PayloadBaseNetworkHeader && (load.Offset == 16 && len(data) == 4 || load.Offset == 24 && len(data) == 16):
			p.host, _ = netip.AddrFromSlice(data) // of the right length
		}
	}
}

// match decodes a match of iptables: `--comment 'dnat name: "net" id: "container"'`,
// or the ports of multiport (struct xt_multiport_v1, linux/netfilter/xt_multiport.h:
// flags, their count, 15 ports in the host's byte order …).
func (p *referencePorts) match(m *expr.Match) {
	switch info := m.Info.(type) {
	case *xt.Comment:
		if container, ok := referenceContainer(string(*info)); ok {
			p.container, p.network = container, referenceNetwork(string(*info))
		}
	case *xt.Tcp:
		p.ports = append(p.ports, info.DstPorts[0])
	case *xt.Udp:
		p.ports = append(p.ports, info.DstPorts[0])
	case *xt.Unknown:
		data := []byte(*info)
		if m.Name == "sctp" && len(data) > 3 { // struct xt_sctp_info begins with the first and last destination port
			p.ports = append(p.ports, binary.NativeEndian.Uint16(data))
		}
		if m.Name != "multiport" {
			return
		}
		for i := 0; len(data) > 1 && i < int(data[1]) && 4+2*i <= len(data); i++ {
			p.ports = append(p.ports, binary.NativeEndian.Uint16(data[2+2*i:]))
		}
	}
}
