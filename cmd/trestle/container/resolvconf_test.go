package container

import (
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestText(t *testing.T) {
	for want, dns := range map[string]types.DNS{
		"": {},
		"nameserver 192.0.2.1\nnameserver fd00::1\n": {Nameservers: []string{"192.0.2.1", "fd00::1"}},
		"search a b\noptions ndots:5 edns0\n":        {Domain: "x", Search: []string{"a", "b"}, Options: []string{"ndots:5", "edns0"}},
		"nameserver 192.0.2.1\nsearch x\n":           {Nameservers: []string{"192.0.2.1"}, Domain: "x"},
	} {
		if got := text(dns); got != want {
			t.Errorf("%+v: got %q, want %q", dns, got, want)
		}
	}
}
