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

// setting is a sysctl or an attribute of the interface, with its value in the form in which
// the kernel shows it.
type setting struct {
	Name  string
	Value string
}

// Settings are in the order in which they are made; they are restored in the opposite one.
type Settings []setting

// The names of settings. The name of a sysctl is the prefix sysctl and its path below
// /proc/sys; the others are attributes of the interface.
const (
	sysctl     = "sysctl "
	macAddress = "mac"
	promisc    = "promisc"
	mtu        = "mtu"
	allMulti   = "allmulti"
	txQLen     = "txQLen"
	// hostMTU is the MTU of the interface's peer, if that is on the host.
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

// joinFields makes values comparable, since the kernel separates fields with tabs.
func joinFields(value string) string { return strings.Join(strings.Fields(value), " ") }

// value is the value of the setting with that name.
func (s Settings) value(name string) (string, bool) {
	for _, setting := range s {
		if setting.Name == name {
			return setting.Value, true
		}
	}
	return "", false
}

// and is s, and those of more whose names are not in s.
func (s Settings) and(more Settings) Settings {
	all := slices.Clone(s)
	for _, setting := range more {
		if _, known := s.value(setting.Name); !known {
			all = append(all, setting)
		}
	}
	return all
}

// tuner reads and writes settings. It must be used on a thread in the container's network
// namespace, whose settings /proc/sys/net then shows.
type tuner struct {
	nl     *netlink.Handle
	host   *netlink.Handle // in the host's namespace
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

// isUnreadable says whether err, from get, means that a sysctl is write-only
// (net.ipv4.route.flush), or has no value until one is written (net.ipv6.conf.*.stable_secret).
func isUnreadable(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EIO) }

// attribute is the value of an interface's attribute. promisc and allmulti are the flags that
// somebody has set, not the kernel's counts, which a packet capture raises, too.
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
	default: // txQLen is the only other one
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

// writeSysctl writes the value by one write(2), as proc_dostring and its like need it
// (kernel/sysctl.c). It never creates a file.
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
