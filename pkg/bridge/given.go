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

// Which network gave a link an address stands in a file for each address, named
// "<namespace>-<link>-<address>-<length>" by inode and index, which are not used again
// for another link. The kernel has no place for it: IFA_LABEL is for IPv4
// alone and begins with the link's name, IFA_PROTO is one byte and since Linux 5.18.
// It is written before the address is given, so that an address without a record is not
// one of ours.

const givenDir = stateDir + "/gateways"

// givenPrefix begins the names of a link's files.
func givenPrefix(linkIndex int) (string, error) {
	ns, err := namespaceID()
	return fmt.Sprintf("%s%d-", ns, linkIndex), err
}

// namespaceID begins the names of all files of the thread's namespace.
func namespaceID() (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return "", cni.IOErrorf("record of gateways: %w", err)
	}
	return fmt.Sprintf("%d-", stat.Ino), nil
}

func givenFile(linkIndex int, p netip.Prefix) (string, error) {
	prefix, err := givenPrefix(linkIndex)
	return filepath.Join(givenDir, fmt.Sprintf("%s%s-%d", prefix, p.Addr(), p.Bits())), err
}

func recordGateway(linkIndex int, p netip.Prefix, network string) error {
	file, err := givenFile(linkIndex, p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(givenDir, 0o700); err != nil {
		return cni.IOErrorf("record of gateways: %w", err)
	}
	if err := rawfile.Write(file, []byte(network), 0o600); err != nil {
		return cni.IOErrorf("record of gateways: %w", err)
	}
	return nil
}

func forgetGateway(linkIndex int, p netip.Prefix) error {
	file, err := givenFile(linkIndex, p)
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
	file, err := givenFile(linkIndex, p)
	if err != nil {
		return false, err
	}
	err = unix.Access(file, unix.F_OK)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, cni.IOErrorf("record of gateways: %w", err)
	}
	return err == nil, nil
}

// isGiven says whether the network gave the link the address; any network of ours
// where network is empty.
func isGiven(linkIndex int, p netip.Prefix, network string) bool {
	file, err := givenFile(linkIndex, p)
	if err != nil {
		return false
	}
	by, err := rawfile.Read(file)
	return err == nil && (network == "" || string(by) == network)
}

// formerGateways are the addresses that the network gave the link before and plans
// no more, which go where forceAddress says so: of the families that get a new one.
func (at site) formerGateways(b Bridge) []netip.Prefix {
	if !b.ForceAddress {
		return nil
	}
	missing := at.missing(b)
	var former []netip.Prefix
	for _, a := range at.has {
		replaced := slices.ContainsFunc(missing, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Addr().Is4() })
		if replaced && !slices.Contains(b.Gateways, a) && isGiven(at.gateway.index, a, b.Network) {
			former = append(former, a)
		}
	}
	return former
}

// forgetGone deletes what is recorded of links that are gone, whoever deleted them. Its
// cost is that of the bridges which have addresses of ours.
func (h *Host) forgetGone() error {
	ns, err := namespaceID()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(givenDir)
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
			err = os.Remove(filepath.Join(givenDir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, cni.IOErrorf("record of gateways: %w", err))
		}
	}
	return failed
}
