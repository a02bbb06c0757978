package tuning

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestIsGone: a DEL restores what is there, and what went before it, or meanwhile, is no
// failure.
func TestIsGone(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"nothing", nil, false},
		{"a sysctl of an interface that went", fmt.Errorf("read sysctl: %w", unix.ENOENT), true},
		{"the interface went after it was found", fmt.Errorf("set mtu of eth0 to 1500: %w", unix.ENODEV), true},
		{"no host veth", fmt.Errorf("set host veth's mtu: %w", errNoHostVeth), true},
		{"refused", fmt.Errorf("set mtu of eth0 to 1500: %w", unix.EINVAL), false},
		{"text alone", errors.New("no such device"), false},
	} {
		if got := isGone(test.err); got != test.want {
			t.Errorf("%s: got %t for %v, want %t", test.name, got, test.err, test.want)
		}
	}
}
