package tuning

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setting is one thing that is tuned, and its value as text: what the kernel
// shows, or would show.
type setting struct {
	Name  string
	Value string
}

// Settings are in the order in which they are made; they are taken back in the
// opposite one.
type Settings []setting

// The names of settings: that of a sysctl is this prefix and its path below
// /proc/sys, the others are attributes of the interface.
const (
	sysctl     = "sysctl "
	macAddress = "mac"
	promisc    = "promisc"
	mtu        = "mtu"
	allMulti   = "allmulti"
	txQLen     = "txQLen"
	// hostMTU is the MTU of the interface's other end, where that is on the host.
	hostMTU = "host veth's mtu"
)

const (
	on  = "on"
	off = "off"
)

func onOff(is bool) string {
	if is {
		return on
	}
	return off
}

// joinFields makes values comparable: the kernel separates with tabs.
func joinFields(value string) string { return strings.Join(strings.Fields(value), " ") }

// value is that of the setting called name.
func (s Settings) value(name string) (string, bool) {
	for _, setting := range s {
		if setting.Name == name {
			return setting.Value, true
		}
	}
	return "", false
}

// and is s and those of more whose names s does not have.
func (s Settings) and(more Settings) Settings {
	all := slices.Clone(s)
	for _, setting := range more {
		if _, known := s.value(setting.Name); !known {
			all = append(all, setting)
		}
	}
	return all
}

// tuner reads and writes settings. It is used on a thread in the container's
// network namespace, which /proc/sys/net follows.
type tuner struct {
	nl     *netlink.Handle
	host   *netlink.Handle // in the namespace that we were called in
	ifName string
}

func (t tuner) link() (netlink.Link, error) {
	link, err := t.nl.LinkByName(t.ifName)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", t.ifName, err)
	}
	return link, nil
}

// get reads one setting.
func (t tuner) get(name string) (string, error) {
	if path, ok := strings.CutPrefix(name, sysctl); ok {
		value, err := os.ReadFile(filepath.Join("/proc/sys", path))
		if err != nil {
			return "", fmt.Errorf("read sysctl: %w", err)
		}
		return joinFields(string(value)), nil
	}
	if name == hostMTU {
		link, err := t.hostVeth()
		if err != nil {
			return "", err
		}
		return attribute(link.Attrs(), mtu), nil
	}
	link, err := t.link()
	if err != nil {
		return "", err
	}
	return attribute(link.Attrs(), name), nil
}

// isUnreadable says whether err, from get, is that of a sysctl which is written
// only (net.ipv4.route.flush), or has no value before one is written
// (net.ipv6.conf.*.stable_secret).
func isUnreadable(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EIO) }

// attribute is the value of an interface's setting. Promiscuity and its like are
// the flags that somebody set, not the counts, which a packet capture raises.
func attribute(link *netlink.LinkAttrs, name string) string {
	switch name {
	case macAddress:
		return link.HardwareAddr.String()
	case promisc:
		return onOff(link.RawFlags&unix.IFF_PROMISC != 0)
	case allMulti:
		return onOff(link.RawFlags&unix.IFF_ALLMULTI != 0)
	case mtu:
		return strconv.Itoa(link.MTU)
	default: // txQLen: there are no others
		return strconv.Itoa(link.TxQLen)
	}
}

// set changes one setting.
func (t tuner) set(s setting) error {
	var err error
	if path, ok := strings.CutPrefix(s.Name, sysctl); ok {
		err = writeSysctl(path, s.Value)
	} else {
		err = t.setAttribute(s)
	}
	if err != nil {
		return fmt.Errorf("set %s of %s to %s: %w", s.Name, t.ifName, s.Value, err)
	}
	return nil
}

// writeSysctl never creates a file, and writes the value in one go, as
// proc_dostring and its like want it (kernel/sysctl.c).
func writeSysctl(path, value string) error {
	file, err := os.OpenFile(filepath.Join("/proc/sys", path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

func (t tuner) setAttribute(s setting) error {
	link, err := t.link()
	if err != nil {
		return err
	}
	switch s.Name {
	case macAddress:
		mac, err := net.ParseMAC(s.Value)
		if err != nil {
			return err
		}
		return t.nl.LinkSetHardwareAddr(link, mac)
	case promisc:
		return choose(s.Value, t.nl.SetPromiscOn, t.nl.SetPromiscOff)(link)
	case allMulti:
		return choose(s.Value, t.nl.LinkSetAllmulticastOn, t.nl.LinkSetAllmulticastOff)(link)
	}
	number, err := strconv.Atoi(s.Value)
	if err != nil {
		return err
	}
	switch s.Name {
	case mtu:
		return t.nl.LinkSetMTU(link, number)
	case hostMTU:
		outside, err := t.hostVeth()
		if err != nil {
			return err
		}
		return t.host.LinkSetMTU(outside, number)
	}
	return t.nl.LinkSetTxQLen(link, number)
}

func choose[T any](value string, whenOn, whenOff T) T {
	if value == on {
		return whenOn
	}
	return whenOff
}
