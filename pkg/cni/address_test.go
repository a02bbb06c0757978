package cni

import "testing"

func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.0.5": "10.1.0.5", "fd00::5": "fd00::5", "::ffff:10.1.0.5": "10.1.0.5", "::": "::",
		"": "", "10.1": "", "10.1.0.05": "", "10.1.0.5/24": "", "fe80::1%eth0": "",
	} {
		got, err := ParseAddr(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("address %q: got %s, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"10.1.0.5/24": "10.1.0.5/24", "fd00::5/64": "fd00::5/64", "::ffff:10.1.0.5/120": "10.1.0.5/24",
		"::ffff:10.1.0.5/96": "10.1.0.5/0", "::ffff:10.1.0.5/95": "", "10.1.0.5": "", "10.1.0.5/33": "", "fe80::1%eth0/64": "",
	} {
		got, err := ParsePrefix(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("prefix %q: got %s, %v, want %q", text, got, err, want)
		}
	}
}

func TestEntry(t *testing.T) {
	for path, want := range map[string]string{"args.cni.ips[]": "args.cni.ips[2]", "CNI_ARGS IP": "CNI_ARGS IP"} {
		if got := Entry(path, 2); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
