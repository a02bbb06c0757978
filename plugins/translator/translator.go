// Package translator opens pkg/nat for the plugins that use it. It tells pkg/nat which
// attachments are alive, which depends on leases and links, and so on pkg/ipam and pkg/bridge,
// which pkg/nat must not import.
package translator

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/netns"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Open opens the host's NAT, and the connection to nftables that it uses, which the caller
// must close. Neither opens a socket or a file before it is used.
func Open() (*nft.Conn, *nat.Host) {
	store := record.Open(record.DefaultDir)
	conn := nft.Open(store.Dir("nft"))
	host := nat.Open(store, conn, isAlive)
	host.Warn = func(text string) { fmt.Fprintln(os.Stderr, "NAT: "+text) }
	return conn, host
}

// SpoofChecks are the MAC checks of the host's ports, over the given connection. The caller
// must hold the lock of the records, which WithSpoofChecks takes.
func SpoofChecks(conn *nft.Conn) bridge.SpoofChecks {
	return bridge.OpenSpoofChecks(record.Open(record.DefaultDir), conn)
}

// WithSpoofChecks calls do with the MAC checks, under the lock of the records.
func WithSpoofChecks(conn *nft.Conn, do func(bridge.SpoofChecks) error) error {
	return record.Open(record.DefaultDir).Locked(func() error {
		conn.Refresh()
		return do(SpoofChecks(conn))
	})
}

// NAT is the State of masquerade and port mappings, with the plugin's own Status.
func NAT(status func(*cni.Request) error) cni.State {
	return cni.State{
		Package: "pkg/nat", What: "masquerade and mapped ports",
		Status: func(r *cni.Request) error {
			return errors.Join(record.Open(record.DefaultDir).Status(), status(r))
		},
		GC: func(r *cni.Request, valid cni.Valid) error {
			conn, host := Open()
			defer conn.Close()
			return host.GC(r.Owner.Network, valid)
		},
		Restore: restore,
	}
}

func restore(done *cni.Restored) error {
	conn, host := Open()
	defer conn.Close()
	return host.Restore(done)
}

// AddressesOf are the container's addresses in prevResult; none if it is missing or cannot be
// read, which a DEL must tolerate.
func AddressesOf(r *cni.Request) (addresses []netip.Addr) {
	prev, _ := r.PrevResult() // nil beside an error
	for _, a := range cni.AddressesOf(prev, r.Owner.IfName) {
		addresses = append(addresses, a.Addr())
	}
	return addresses
}

// isAlive says whether the attachment with that label is alive: it has a link of ours, or a
// lease whose container is alive. A lease alone is not enough, since leases outlive a boot; a
// link is not necessary, since those of other main plugins have names that we do not know.
// A network (a label that ends in "/") is alive if any attachment to it has a link.
func isAlive(label string) (bool, error) {
	if strings.HasSuffix(label, "/") {
		return hasPort(label)
	}
	owner, ok := cni.ParseOwner(label)
	if !ok {
		return false, nil
	}
	_, err := netlink.LinkByName(bridge.HostName(owner))
	if netns.IsLinkGone(err) {
		return ipam.IsAlive(owner)
	}
	if err != nil {
		return false, fmt.Errorf("look whether %s is alive: %w", label, err)
	}
	return true, nil
}

// hasPort says whether any attachment to the network has its host veth.
func hasPort(networkLabel string) (bool, error) {
	links, err := dump.Complete(netlink.LinkList)
	found := slices.ContainsFunc(links, func(l netlink.Link) bool {
		label, ours := bridge.Label(l.Attrs().Alias)
		return ours && strings.HasPrefix(label, networkLabel)
	})
	if err != nil && !found { // a link that was found counts, even if the list is not complete
		return false, fmt.Errorf("look whether anybody is on network %s: %w", networkLabel, err)
	}
	return found, nil
}
