package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interest is what Events reports besides what is ours.
type Interest struct {
	// Uplink is the uplink's name; where it is "", every address is reported.
	Uplink string
	// Pools are the networks' pools: another's route in there may be in the way of ours.
	Pools func() []netip.Prefix
}

// Events calls changed, from several goroutines, when the kernel reports that something of
// ours may have changed, by whomever: a route of ours was deleted or replaced, or another's in a
// pool was, a default route came or went, an entry or neighbour of the tunnel, a device or the
// uplink, an address of these, forwarding, or our nftables table. It calls changed once at the
// beginning, for what happened before. Events returns nil when ctx ends, or an error after which
// the caller calls it again. Other links and routes are no event: those of containers come and go.
func Events(ctx context.Context, of Interest, changed func(what string)) error {
	w := &watcher{Interest: of, changed: changed, ours: map[string]int{TunnelName: 0, WireGuardName: 0}}
	route, err := listen(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("listen to rtnetlink: %w", err)
	}
	filter, err := listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return errors.Join(fmt.Errorf("listen to nfnetlink: %w", err), route.Close())
	}
	w.learn()
	changed("start")
	failed := make(chan error, 2)
	go func() { failed <- receive(route, w.rtnetlink) }()
	go func() { failed <- receive(filter, w.nfnetlink) }()
	left := cap(failed)
	select {
	case <-ctx.Done():
	case err = <-failed:
		left--
	}
	_, _ = route.Close(), filter.Close() // which ends the receivers
	for range left {
		<-failed
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func listen(protocol int, groups ...uint32) (*mdl.Conn, error) {
	conn, err := mdl.Dial(protocol, nil)
	if err != nil {
		return nil, err
	}
	for _, group := range groups {
		if err := conn.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("join group %d: %w", group, err), conn.Close())
		}
	}
	return conn, nil
}

func receive(conn *mdl.Conn, handle func(mdl.Message)) error {
	for {
		messages, err := conn.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			handle(m)
		}
	}
}

// watcher picks the messages that concern us. Each of the two sockets has a goroutine; only
// rtnetlink's changes the fields.
type watcher struct {
	Interest
	changed     func(string)
	ours        map[string]int // the devices' indices, by their names
	uplinkIndex int
}

func (w *watcher) learn() {
	for name := range w.ours {
		w.ours[name] = indexOf(name)
	}
	if w.Uplink != "" {
		w.uplinkIndex = indexOf(w.Uplink)
	}
}

func indexOf(name string) int {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0 // it does not exist yet
	}
	return link.Attrs().Index
}

func (w *watcher) isOurs(index int) bool {
	return index != 0 && (index == w.ours[TunnelName] || index == w.ours[WireGuardName])
}

func (w *watcher) rtnetlink(m mdl.Message) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		w.link(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if i := indexAt(m, 4); w.Uplink == "" || i == w.uplinkIndex || w.isOurs(i) { // struct ifaddrmsg
			w.changed("address")
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if w.isRelevant(m) {
			w.changed("route")
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if w.isOurs(indexAt(m, 4)) { // struct ndmsg
			w.changed("neighbour")
		}
	case unix.RTM_NEWNETCONF:
		// The kernel tells this of each new device as well, and so of each container's.
		if i := netconfIndex(m); i == netconfAll || w.isOurs(i) {
			w.changed("forwarding")
		}
	}
}

// isRelevant says whether the change of a route is an event (Events).
func (w *watcher) isRelevant(m mdl.Message) bool {
	if len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	length, table, protocol := m.Data[1], m.Data[4], netlink.RouteProtocol(m.Data[5]) // struct rtmsg
	flags := binary.NativeEndian.Uint32(m.Data[8:])
	if table != unix.RT_TABLE_MAIN || flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	isOver := m.Header.Type == unix.RTM_DELROUTE || m.Header.Flags&mdl.Replace != 0
	switch {
	case length == 0: // it leads to the other hosts, or did
		return true
	case !isOver || protocol == unix.RTPROT_KERNEL:
		return false
	case protocol == Protocol:
		return true
	}
	dst, ok := destination(m.Data[unix.SizeofRtMsg:], int(length))
	return ok && overlapsAny(dst, w.Pools())
}

// destination reads RTA_DST.
func destination(attributes []byte, length int) (netip.Prefix, bool) {
	decoder, err := mdl.NewAttributeDecoder(attributes)
	if err != nil {
		return netip.Prefix{}, false
	}
	for decoder.Next() {
		if addr, ok := netip.AddrFromSlice(decoder.Bytes()); ok && decoder.Type() == unix.RTA_DST {
			return netip.PrefixFrom(addr, length), true
		}
	}
	return netip.Prefix{}, false
}

// netconfAll is NETCONFA_IFINDEX_ALL of linux/netconf.h.
const netconfAll = -1

// netconfIndex reads NETCONFA_IFINDEX, which is 1: the link whose settings have changed.
func netconfIndex(m mdl.Message) int {
	const header = 4 // struct netconfmsg, aligned
	if len(m.Data) < header {
		return 0
	}
	decoder, err := mdl.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return 0
	}
	for decoder.Next() {
		if decoder.Type() == 1 {
			return int(decoder.Int32())
		}
	}
	return 0
}

// link reports changes of our devices and the uplink. They are recognized by name, since a device
// that was deleted and made again has another index, and by index, since one may be renamed.
func (w *watcher) link(m mdl.Message) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return
	}
	index := indexAt(m, 4)
	name := ""
	if attributes, err := mdl.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:]); err == nil {
		for attributes.Next() {
			if attributes.Type() == unix.IFLA_IFNAME {
				name = attributes.String()
			}
		}
	}
	_, isOurs := w.ours[name]
	switch {
	case isOurs:
		w.ours[name] = index
		w.changed("link " + name)
	case name == w.Uplink:
		w.uplinkIndex = index
		w.changed("link " + name)
	case w.isOurs(index), index == w.uplinkIndex:
		w.changed("link " + name)
	}
}

// nfnetlink reports whatever is deleted in our table, and the deletion of the table itself.
func (w *watcher) nfnetlink(m mdl.Message) {
	kind := int(m.Header.Type) & 0xff
	if int(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
		return
	}
	switch kind {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELCHAIN:
	default:
		return
	}
	attributes, err := mdl.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return
	}
	for attributes.Next() {
		// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and so on are all 1.
		if attributes.Type() == unix.NFTA_TABLE_NAME && attributes.String() == tableName {
			w.changed("nftables")
		}
	}
}

// indexAt reads a link's index from a message's fixed header.
func indexAt(m mdl.Message, offset int) int {
	if len(m.Data) < offset+4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(m.Data[offset:])))
}
