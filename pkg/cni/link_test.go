package cni

import (
	"errors"
	"strings"
	"testing"
)

func TestLinkValues(t *testing.T) {
	for name, sound := range map[string]bool{
		"eth0": true, "a": true, "fifteen-bytes-x": true, "br.100": true, "": false, "sixteen-bytes-xx": false,
		".": false, "..": false, "a/b": false, "a:b": false, "a%d": false, "a b": false, "a\x00": false, "a\u00a0b": false,
		"all": false, "default": false, "all0": true,
	} {
		if err := CheckIfName(name); (err == nil) != sound {
			t.Errorf("name %q: got %v, want sound %v", name, err, sound)
		}
	}
	for mac, sound := range map[string]bool{
		"0a:58:0a:16:00:02": true, "00:00:00:00:00:00": false, "01:00:5e:00:00:01": false, "0a:58": false,
		"02:00:5e:10:00:00:00:01": false, "": false,
	} {
		if got, err := ParseMAC(mac); (err == nil) != sound || sound && got.String() != mac {
			t.Errorf("MAC %q: got %v, %v, want sound %v", mac, got, err, sound)
		}
	}
	for mtu, sound := range map[int]bool{0: true, 68: true, 65535: true, 67: false, 65536: false, -1: false} {
		if err := CheckMTU(mtu); (err == nil) != sound {
			t.Errorf("MTU %d: got %v, want sound %v", mtu, err, sound)
		}
	}
}

func TestConfigErrorOfNone(t *testing.T) {
	if err := ConfigError("mtu", nil); err != nil {
		t.Errorf("got %v, want none", err)
	}
	if err := ConfigError("mtu", errors.New("9 is out of bounds")); CodeOf(err) != CodeConfig || !strings.HasPrefix(err.Error(), "mtu: 9") {
		t.Errorf("got %v with code %d, want the field and code %d", err, CodeOf(err), CodeConfig)
	}
}
