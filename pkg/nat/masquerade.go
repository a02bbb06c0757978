package nat

import (
	"github.com/trestle-cni/trestle/pkg/cni"
)

// maxKept bounds the destinations of a rule, each of which takes three
// expressions: a rule has 128 (NFT_RULE_MAXEXPRS, net/netfilter/nf_tables_api.c).
const maxKept = 40

// check refuses what no rule can be made of; errors have code 7.
func (m Masquerade) check() error {
	for _, f := range families() {
		if kept := len(m.keeps(f)); kept > maxKept {
			return cni.ConfigErrorf("masquerade.exclude: %d destinations of one family, the network's own among them, and %d is the most; use fewer, wider prefixes",
				kept, maxKept)
		}
		source := m.snat(f)
		if source.IsValid() && (source.Is4() != f.is4 || source.Zone() != "" || source.IsUnspecified() || source.IsMulticast()) {
			return cni.ConfigErrorf("masquerade.snatIP%s: %s is not a source address of that family; use one of the host's, like 192.0.2.1 or 2001:db8::1", f.digit(), source)
		}
	}
	return nil
}
