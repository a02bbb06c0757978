package ipam

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// requested returns the addresses that the runtime requests, each at the index of the set that
// it is in. They come from CNI_ARGS (IP=, separated by commas), args.cni.ips and
// runtimeConfig.ips; a prefix length after an address is ignored.
func (w *wireConfig) requested(arg string, sets []Set) ([]netip.Addr, error) {
	type source struct {
		key  string
		list []string
	}
	var args []string
	if arg != "" {
		args = strings.Split(arg, ",")
	}
	requested := make([]netip.Addr, len(sets))
	for _, from := range []source{{"CNI_ARGS IP", args}, {"args.cni.ips[]", w.Args.CNI.IPs}, {"runtimeConfig.ips[]", w.RuntimeConfig.IPs}} {
		for i, text := range from.list {
			if err := request(requested, sets, cni.Entry(from.key, i), strings.TrimSpace(text)); err != nil {
				return nil, err
			}
		}
	}
	return requested, nil
}

// request adds one requested address, after checking it.
func request(requested []netip.Addr, sets []Set, key, text string) error {
	address, _, _ := strings.Cut(text, "/")
	a, err := cni.ParseAddr(address)
	if err != nil {
		return cni.ConfigError(key, err)
	}
	i := slices.IndexFunc(sets, func(s Set) bool { _, ok := s.rangeOf(a); return ok })
	if i < 0 {
		return cni.ConfigErrorf("%s: %s is in no range of the network; its ranges are %s", key, a, showSets(sets))
	}
	r, _ := sets[i].rangeOf(a) // cannot fail: IndexFunc has found it
	switch {
	case a == r.Gateway:
		return cni.ConfigErrorf("%s: %s is the gateway of %s; request another address", key, a, r.Subnet)
	case !r.Leasable(a):
		return cni.ConfigErrorf("%s: %s is never leased (ipam.exclude, another range's gateway, or an end of %s); request another address", key, a, r.Subnet)
	case requested[i].IsValid() && requested[i] != a:
		return cni.ConfigErrorf("%s: %s and %s are of one range set (%s), which gives one address; put their ranges into sets of their own", key, a, requested[i], sets[i])
	}
	requested[i] = a
	return nil
}

func showSets(sets []Set) string {
	var parts []string
	for _, s := range sets {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, "; ")
}
