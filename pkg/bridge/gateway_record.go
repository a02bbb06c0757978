package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// The record of a gateway address is a file that contains the name of the network which gave
// it to the link. The file is named "<namespace>-<link>-<address>-<length>", by the inode of
// the namespace and the index of the link: the kernel does not reuse an index for another
// link of the namespace, and a record that a reused inode inherits counts only if the link
// has the very address. The kernel has no place for the record: IFA_LABEL is for IPv4 alone
// and begins with the link's name, IFA_PROTO is one byte, since Linux 5.18. It is written
// before the address is added, so that an address without a record is not one of ours.

const gatewayDir = stateDir + "/gateways"

// namespacePrefix is what the names of all records of the thread's namespace begin with.
func namespacePrefix() (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return "", cni.IOErrorf("record of gateways: %w", err)
	}
	return fmt.Sprintf("%d-", stat.Ino), nil
}

func gatewayFile(linkIndex int, p netip.Prefix) (string, error) {
	prefix, err := namespacePrefix()
	return filepath.Join(gatewayDir, fmt.Sprintf("%s%d-%s-%d", prefix, linkIndex, p.Addr(), p.Bits())), err
}

func recordGateway(linkIndex int, p netip.Prefix, network string) error {
	file, err := gatewayFile(linkIndex, p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(gatewayDir, 0o700); err != nil {
		return cni.IOErrorf("record of gateways: %w", err)
	}
	if err := rawfile.Write(file, []byte(network), 0o600); err != nil {
		return cni.IOErrorf("record of gateways: %w", err)
	}
	return nil
}

func forgetGateway(linkIndex int, p netip.Prefix) error {
	file, err := gatewayFile(linkIndex, p)
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cni.IOErrorf("record of gateways: %w", err)
	}
	return nil
}

// isRecorded says whether any network gave the link the address.
func isRecorded(linkIndex int, p netip.Prefix) (bool, error) {
	file, err := gatewayFile(linkIndex, p)
	if err != nil {
		return false, err
	}
	err = unix.Access(file, unix.F_OK)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, cni.IOErrorf("record of gateways: %w", err)
	}
	return err == nil, nil
}

// isGatewayOf says whether the network gave the link the address; with an empty name,
// whether any network of ours did.
func isGatewayOf(network string, linkIndex int, p netip.Prefix) bool {
	file, err := gatewayFile(linkIndex, p)
	if err != nil {
		return false
	}
	by, err := rawfile.Read(file)
	return err == nil && (network == "" || string(by) == network)
}

// formerGateways are the addresses that forceAddress deletes: those that the network gave
// the link and plans no more, of the families in which a planned one is missing.
func (at site) formerGateways(b Bridge) []netip.Prefix {
	if !b.ForceAddress {
		return nil
	}
	missing := at.missing(b)
	var former []netip.Prefix
	for _, a := range at.has {
		replaced := slices.ContainsFunc(missing, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Addr().Is4() })
		if replaced && !slices.Contains(b.Gateways, a) && isGatewayOf(b.Network, at.gateway.index, a) {
			former = append(former, a)
		}
	}
	return former
}

// forgetGone deletes the records of links that are gone, whoever deleted them. Its cost
// grows with the number of gateway addresses, not with that of containers.
func (h *Host) forgetGone() error {
	ns, err := namespacePrefix()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(gatewayDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cni.IOErrorf("record of gateways: %w", err)
	}
	var failed error
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), ns)
		index, err := strconv.Atoi(rest[:max(0, strings.IndexByte(rest, '-'))])
		if !ours || err != nil {
			continue
		}
		_, there, err := h.rt.find(lookUpIndex(index))
		if err == nil && !there {
			err = os.Remove(filepath.Join(gatewayDir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, cni.IOErrorf("record of gateways: %w", err))
		}
	}
	return failed
}
