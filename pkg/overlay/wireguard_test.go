package overlay

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// TestIsOurs: a device with our name is ours by alias, key or group. One without a key and group may
// be another program's that has just been created.
func TestIsOurs(t *testing.T) {
	t.Parallel()
	key, another := wgtypes.Key{1}, wgtypes.Key{2}
	ours := netlink.LinkAttrs{Alias: alias, Group: deviceGroup}
	for _, test := range []struct {
		name   string
		attrs  netlink.LinkAttrs
		device wgtypes.Device
		host   wgtypes.Key
		want   bool
	}{
		{"as we leave it", ours, wgtypes.Device{PrivateKey: key}, key, true},
		{"with a key that this host has lost", ours, wgtypes.Device{PrivateKey: another}, key, true},
		{"of a release that knew no group", netlink.LinkAttrs{Alias: alias}, wgtypes.Device{PrivateKey: key}, key, true},
		{"killed right after it was made", netlink.LinkAttrs{Group: deviceGroup}, wgtypes.Device{}, key, true},
		{"killed before the alias", netlink.LinkAttrs{}, wgtypes.Device{PrivateKey: key}, key, true},
		{"another's without a key", netlink.LinkAttrs{}, wgtypes.Device{}, key, false},
		{"the same, and this host has none either", netlink.LinkAttrs{}, wgtypes.Device{}, wgtypes.Key{}, false},
		{"another's", netlink.LinkAttrs{}, wgtypes.Device{PrivateKey: another}, key, false},
		{"another's, in our group", netlink.LinkAttrs{Group: deviceGroup}, wgtypes.Device{PrivateKey: another}, key, false},
		{"another's with peers and no key yet", netlink.LinkAttrs{Group: deviceGroup}, wgtypes.Device{Peers: make([]wgtypes.Peer, 1)}, key, false},
	} {
		if got := isOurs(&test.attrs, &test.device, test.host); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
