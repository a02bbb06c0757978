package bridge

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

// TestAnnouncements: the packets as tcpdump decodes them, the ICMPv6 checksum right.
func TestAnnouncements(t *testing.T) {
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0a}
	got := hex.EncodeToString(announcement4(7, mac, netip.MustParseAddr("10.1.0.9")).packet)
	if want := "0001080006040001" + "02000000000a" + "0a010009" + "000000000000" + "0a010009"; got != want {
		t.Errorf("ARP: got %s, want %s", got, want)
	}
	packet := announcement6(7, mac, netip.MustParseAddr("fd00::9")).packet
	const (
		header = "60000000" + "0020" + "3a" + "ff" + "fd000000000000000000000000000009" + "ff020000000000000000000000000001"
		after  = "20000000" + "fd000000000000000000000000000009" + "0201" + "02000000000a"
	)
	got = hex.EncodeToString(packet)
	if want := header + "8800" + hex.EncodeToString(packet[42:44]) + after; got != want {
		t.Errorf("advertisement: got %s, want %s", got, want)
	}
	// with its checksum in it, the whole adds up to zero
	whole := append(append(append([]byte{}, packet[8:40]...), 0, 0, 0, 32, 0, 0, 0, 58), packet[40:]...)
	if sum := internetChecksum(whole); sum != 0 {
		t.Errorf("got checksum %x of all, want 0", sum)
	}
}
