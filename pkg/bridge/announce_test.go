package bridge

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

// TestAnnouncements: the expected packets are those that tcpdump decodes as announcements. The
// checksum of ICMPv6 is 0 here, since the kernel computes it.
func TestAnnouncements(t *testing.T) {
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0a}
	got := hex.EncodeToString(announcement4(7, mac, netip.MustParseAddr("10.1.0.9")).packet)
	if want := "0001080006040001" + "02000000000a" + "0a010009" + "000000000000" + "0a010009"; got != want {
		t.Errorf("ARP: got %s, want %s", got, want)
	}
	got = hex.EncodeToString(announcement6(7, mac, netip.MustParseAddr("fd00::9")).packet)
	if want := "8800" + "0000" + "20000000" + "fd000000000000000000000000000009" + "0201" + "02000000000a"; got != want {
		t.Errorf("advertisement: got %s, want %s", got, want)
	}
}
