package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// referenceChains is where the reference plugin portmap leads host ports to
// containers: by table, in each family, those of its nftables backend and of
// iptables' nft variant (plugins/meta/portmap, portmap_{nftables,iptables}.go).
func referenceChains(table string) []string {
	switch table {
	case "cni_hostport":
		return []string{"hostports", "hostip_hostports"}
	case "nat":
		return []string{"CNI-HOSTPORT-DNAT"}
	}
	return nil
}

// refuseReference is an error where one of f's host ports leads to another
// container by rules of the reference plugin portmap, which has containers on a
// host that was switched over while they ran. Rules of iptables-legacy are not
// seen: only programs can read them, and an ADD runs none.
func (h *Host) refuseReference(f OwnedPorts) error {
	conn, err := h.conn.Library()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a kernel without nf_tables
	}
	if err != nil {
		return fmt.Errorf("list the tables of nftables: %w", err)
	}
	for _, table := range tables {
		for _, chain := range referenceChains(table.Name) {
			rules, err := conn.GetRules(table, &nftables.Chain{Name: chain})
			if err != nil {
				return fmt.Errorf("list chain %s of nftables table %s: %w", chain, table.Name, err)
			}
			if err := refuseTaken(f, rules, table.Family == nftables.TableFamilyIPv4); err != nil {
				return err
			}
		}
	}
	return nil
}

func refuseTaken(f OwnedPorts, rules []*nftables.Rule, is4 bool) error {
	for _, rule := range rules {
		taken := readReferencePorts(rule)
		for _, m := range f.Mappings {
			if m.Host.Addr().Is4() == is4 && taken.container != f.Owner.ContainerID && taken.has(m) {
				return cni.ConflictErrorf("host port %s/%d on %s is taken by container %s, for which the reference plugins mapped it; stop that container or choose another host port",
					m.Protocol, m.Host.Port(), hostName(m.Host.Addr()), taken.container)
			}
		}
	}
	return nil
}

// referencePorts is what one rule of the reference plugin portmap leads to a
// container. host is the zero Addr where the rule names none: those of iptables
// do so in a chain further on, and are taken to be for all.
type referencePorts struct {
	container string
	protocol  byte
	host      netip.Addr
	ports     []uint16
}

func (p referencePorts) has(m Mapping) bool {
	if p.protocol != m.Protocol.number() || p.host.IsValid() && !m.anyHost() && p.host != m.Host.Addr() {
		return false
	}
	for _, port := range p.ports {
		if port == m.Host.Port() {
			return true
		}
	}
	return false
}

// readReferencePorts understands the few matches that those rules are made of: a
// load into a register and the comparison that follows it, or a match of iptables.
func readReferencePorts(rule *nftables.Rule) referencePorts {
	found := referencePorts{container: commentOf(rule)}
	var loaded expr.Any
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload:
			loaded = e
		case *expr.Cmp:
			found.compare(loaded, e.Data)
		case *expr.Match:
			found.match(e)
		}
	}
	return found
}

// compare takes what a register that was loaded so is compared with. Offsets are
// those of RFC 9293, section 3.1, of RFC 791 and of RFC 8200.
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

// match takes a match of iptables: `--comment 'dnat name: "net" id: "container"'`,
// or the ports of multiport (struct xt_multiport_v1, linux/netfilter/xt_multiport.h:
// flags, their count, 15 ports in the host's byte order …).
func (p *referencePorts) match(m *expr.Match) {
	switch info := m.Info.(type) {
	case *xt.Comment:
		if _, id, ok := strings.Cut(string(*info), `id: "`); ok {
			p.container, _, _ = strings.Cut(id, `"`)
		}
	case *xt.Unknown:
		if m.Name != "multiport" {
			return
		}
		data := []byte(*info)
		for i := 0; len(data) > 1 && i < int(data[1]) && 4+2*i <= len(data); i++ {
			p.ports = append(p.ports, binary.NativeEndian.Uint16(data[2+2*i:]))
		}
	}
}
