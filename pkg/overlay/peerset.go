package overlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// Names of the nftables table, its sets and chain.
const (
	tableName  = "trestle-node"
	setPeers4  = "peers4"
	setPeers6  = "peers6"
	chainInput = "input"
)

// peerTable drops and counts VXLAN packets from any address but the peers'. Without it
// whoever can send this host a UDP packet could inject frames into the network.
//
//	table inet trestle-node {
//		set peers4 { type ipv4_addr; }
//		set peers6 { type ipv6_addr; }
//		chain input {
//			type filter hook input priority filter; policy accept;
//			meta nfproto ipv4 udp dport 8473 ip saddr != @peers4 counter drop
//			meta nfproto ipv6 udp dport 8473 ip6 saddr != @peers6 counter drop
//		}
//	}
func peerTable(port int) nft.Table {
	return nft.Table{
		Family: nftables.TableFamilyINet, Name: tableName, Key: fmt.Sprintf("peers 1 %d", port),
		Sets: []nft.Set{
			{Name: setPeers4, Key: []nftables.SetDatatype{nftables.TypeIPAddr}},
			{Name: setPeers6, Key: []nftables.SetDatatype{nftables.TypeIP6Addr}},
		},
		Chains: []nft.Chain{{
			Name: chainInput,
			Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter},
			Rules: []nft.Rule{
				strangerRule(port, unix.NFPROTO_IPV4, setPeers4, addressAt{12, 4}),
				strangerRule(port, unix.NFPROTO_IPV6, setPeers6, addressAt{8, 16}),
			},
		}},
	}
}

// addressAt is where the source address is in an IP header.
type addressAt struct{ offset, length uint32 }

func strangerRule(port int, protocol byte, set string, at addressAt) nft.Rule {
	return nft.Rule{Comment: "VXLAN from strangers", Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(port))},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at.offset, Len: at.length},
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: true},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}}
}

func peerElement(peer netip.Addr) nft.Element {
	set := setPeers4
	if peer.Is6() {
		set = setPeers6
	}
	return nft.Element{
		Family: nftables.TableFamilyINet, Table: tableName, Set: set, Key: peer.AsSlice(),
		Owner: "peer", Shared: true, What: "peer " + peer.String(),
	}
}

// observePeers reads the table. One whose rules differ has port -1, so that Diff finds it
// different.
func (h *Host) observePeers(f *Found, want State) error {
	table := peerTable(want.Port)
	there, err := h.nft.Exists(table)
	if err != nil || !there {
		return err
	}
	differences, err := h.nft.Diff(nft.Changes{Tables: []nft.Table{table}})
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		f.Port = -1
		return nil
	}
	f.Port = want.Port
	elements, err := h.nft.List(table)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if addr, ok := netip.AddrFromSlice(e.Key); ok {
			f.Peers = append(f.Peers, addr)
		}
	}
	return nil
}

// applyPeers creates or updates the table; without a port it removes it.
func (h *Host) applyPeers(want State) error {
	table := peerTable(want.Port)
	if want.Port == 0 {
		return h.removePeers()
	}
	h.nft.Refresh() // others may have changed rules since the last time
	have, err := h.nft.List(table)
	if err != nil {
		return err
	}
	changes := nft.Changes{Tables: []nft.Table{table}}
	for _, p := range want.Peers {
		changes.Create = append(changes.Create, peerElement(p))
	}
	changes.Create, changes.Remove = nft.Compare(changes.Create, have)
	if err := h.nft.Commit(changes, nil); err != nil {
		return fmt.Errorf("table inet %s: %w", tableName, err)
	}
	return nil
}

func (h *Host) removePeers() error {
	table := peerTable(0)
	there, err := h.nft.Exists(table)
	if err != nil || !there {
		return err
	}
	return h.nft.DeleteTable(table)
}

// Strangers is how many VXLAN packets the table has dropped.
func (h *Host) Strangers() (uint64, error) {
	library, err := h.nft.Library()
	if err != nil {
		return 0, err
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	there, err := h.nft.HasChain(peerTable(0), chainInput)
	if err != nil || !there {
		return 0, err
	}
	rules, err := library.GetRules(table, &nftables.Chain{Name: chainInput, Table: table})
	if err != nil {
		return 0, fmt.Errorf("list the rules of inet %s: %w", tableName, err)
	}
	var n uint64
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				n += counter.Packets
			}
		}
	}
	return n, nil
}
