package bridge

import "testing"

// If the kernel does not answer over netlink, the sysctl counts; if that cannot be read, the
// setting does not count as off.
func TestIsForwardingWithoutNetlink(t *testing.T) {
	on, err := readSysctl(forward4)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, setting string
		want, fails   bool
	}{
		{"as the file says", forward4, on != "0", false},
		{"a setting that is on", "ipv4/ip_default_ttl", true, false},
		{"no such family", "ipv7/forwarding", false, false},
		{"not to be read", "ipv4", false, true},
	} {
		got, err := isForwarding(nil, tt.setting)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%s: got %t, %v, want %t, an error: %t", tt.name, got, err, tt.want, tt.fails)
		}
	}
}
