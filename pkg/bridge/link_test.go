package bridge

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// newLinkMessage is an RTM_NEWLINK with these attributes.
func newLinkMessage(attrs ...*nl.RtAttr) []byte {
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index, head.Flags = 7, unix.IFF_UP
	message := head.Serialize()
	for _, a := range attrs {
		message = append(message, aligned(a.Serialize())...)
	}
	return message
}

func TestReadLink(t *testing.T) {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_VLAN_FILTERING, []byte{1})
	data.AddRtAttr(nl.IFLA_BR_VLAN_DEFAULT_PVID, nl.Uint16Attr(5))
	conf := make([]byte, 4*(confAcceptDAD+1))
	binary.NativeEndian.PutUint32(conf[4*confAcceptRA:], 2)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(2, conf)
	message := newLinkMessage(
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("br0")),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1400)),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(3)),
		info, spec,
	)
	l, err := readLink(message)
	if err != nil || l.index != 7 || !l.isUp() || l.name != "br0" || l.mtu != 1400 || l.master != 3 || l.kind != "bridge" || !l.filtersVLANs || l.defaultVLAN != 5 {
		t.Errorf("got %+v, %v", l, err)
	}
	if !l.hasIPv6() || !l.inet6Is(confAcceptRA, 2) || !l.inet6Is(confAcceptDAD, 0) || l.inet6Is(confAcceptDAD+1, 0) {
		t.Errorf("got IPv6 settings %v; what the kernel did not tell is not known", l.inet6)
	}
	for n := range message { // a truncated message is no problem
		if _, err := readLink(message[:n]); (err == nil) != (n >= unix.SizeofIfInfomsg) {
			t.Errorf("%d of %d bytes: got %v", n, len(message), err)
		}
		parseMessages(message[:n])
	}
}

func TestIsCutBy(t *testing.T) {
	tests := []struct {
		name   string
		what   reach
		tunnel bool
		want   bool
	}{
		{"same network", reach{prefix: netip.MustParsePrefix("10.9.0.0/24")}, false, true},
		{"same network, tunnel", reach{prefix: netip.MustParsePrefix("10.9.0.0/24")}, true, true},
		{"holds it", reach{prefix: netip.MustParsePrefix("10.0.0.0/8")}, false, true},
		{"holds it, tunnel", reach{prefix: netip.MustParsePrefix("10.0.0.0/8")}, true, false},
		{"a part of it", reach{prefix: netip.MustParsePrefix("10.9.0.128/25")}, false, true},
		{"an address of another link in its subnet", reach{prefix: netip.MustParsePrefix("10.9.0.7/24")}, false, true},
		{"a single address in it", reach{prefix: netip.MustParsePrefix("10.9.0.0/32")}, false, false},
		{"that very address", reach{prefix: netip.MustParsePrefix("10.9.0.1/32")}, false, true},
		{"that very router", reach{prefix: netip.MustParsePrefix("10.9.0.1/32"), router: true}, false, true},
		{"a router in it", reach{prefix: netip.MustParsePrefix("10.9.0.9/32"), router: true}, false, false},
		{"beside it", reach{prefix: netip.MustParsePrefix("10.9.1.0/24")}, false, false},
		{"link-local", reach{prefix: netip.MustParsePrefix("169.254.0.0/16")}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.what.isCutBy(netip.MustParsePrefix("10.9.0.1/24"), func(int) bool { return tt.tunnel })
			if got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestRouteMayBe(t *testing.T) {
	known := leased("10.7.0.0/16", "10.1.0.1").resolve(nil)
	full := known
	full.MTU, full.Priority, full.Table = 1300, 9, 77
	told := known
	told.Priority = 10
	elsewhere := known
	elsewhere.Gateway = netip.MustParseAddr("10.1.0.9")
	for name, tt := range map[string]struct {
		want, have Route
		match      bool
	}{
		"nothing told of it":      {known, full, true},
		"a field told, the other": {told, full, false},
		"a field told, the same":  {full, full, true},
		"another gateway":         {known, elsewhere, false},
	} {
		if got := tt.want.mayBe(tt.have); got != tt.match {
			t.Errorf("%s: got %t, want %t", name, got, tt.match)
		}
	}
}

// The unspecified address means "none" in every field of a result.
func TestUnspecifiedGateways(t *testing.T) {
	for _, ip := range [][]byte{{0, 0, 0, 0}, make([]byte, 16), nil} {
		if got := toGateway(ip); got.IsValid() {
			t.Errorf("got %s from %v, want none", got, ip)
		}
	}
	if got := toGateway([]byte{10, 0, 0, 1}); got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("got %s", got)
	}
}
