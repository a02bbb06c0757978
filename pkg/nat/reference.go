package nat

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// ReleaseReference deletes what the reference plugins made for an owner of which we have no
// record, as far as that is certain: a host may have been switched over while its containers
// ran. It is called before Release, which deletes the record. addresses are the container's,
// if they are known: rules that only have the container's ID as comment are recognised by
// them.
//
// To look takes a few messages to the kernel. A program is only run if the kernel has tables
// of iptables-legacy, which netlink does not show.
func (h *Host) ReleaseReference(owner cni.Owner, addresses []netip.Addr) error {
	known, err := h.Known(owner)
	if err != nil || known {
		return err
	}
	first := owner
	first.IfName = firstInterface
	by := reference{owner: owner, addresses: addresses}
	if by.firstIsOurs, err = h.Known(first); err != nil {
		return err
	}
	err = h.conn.Usable()
	errs := []error{err}
	if err == nil {
		errs = append(errs, by.deleteFromNFTables(h.conn))
	}
	if errors.Is(err, nft.ErrUnsupported) {
		errs = nil // nothing can be there
	}
	for _, f := range families() {
		errs = append(errs, by.deleteFromLegacy(f))
	}
	return errors.Join(errs...)
}

// reference is an owner as the reference plugins name it.
type reference struct {
	owner     cni.Owner
	addresses []netip.Addr
	// firstIsOurs says that we have a record of the container's first interface: then the
	// chain that the reference plugin would have for the container is ours, and stays.
	firstIsOurs bool
}

func sha512Hex(s string, digits int) string {
	return fmt.Sprintf("%x", sha512.Sum512([]byte(s)))[:digits]
}

// chains returns the chains that the reference plugins make for the container in table nat
// of iptables, and for each the chain that jumps to it (plugins: pkg/utils/utils.go,
// FormatChainName; pkg/ip/ipmasq_iptables_linux.go; plugins/meta/portmap).
func (f reference) chains() map[string]string {
	first := f.owner
	first.IfName = firstInterface
	chains := map[string]string{
		"CNI-" + sha512Hex(f.owner.Network+f.owner.ContainerID, 24): "POSTROUTING",
		ownerChain(f.owner): dnatChain, // ours, if its record was lost
	}
	if !f.firstIsOurs {
		chains[ownerChain(first)] = dnatChain
	}
	return chains
}

// deleteFromNFTables sends one transaction, if there is anything to delete.
func (f reference) deleteFromNFTables(c *nft.Conn) error {
	err := c.Edit(func(library *nftables.Conn) error {
		for _, part := range f.nftParts() {
			if err := part.delete(c, library); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete rules of the reference plugins for %s: %w", f.owner, err)
	}
	return nil
}

// delete stages that what is there of the part goes.
func (p nftPart) delete(c *nft.Conn, library *nftables.Conn) error {
	rules, err := p.rules(c, library)
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if err := library.DelRule(rule); err != nil {
			return fmt.Errorf("delete rule %d of table %s: %w", rule.Handle, p.table.Name, err)
		}
	}
	if p.chain == "" {
		return nil
	}
	there, err := p.has(c, p.chain)
	if err == nil && there {
		chain := &nftables.Chain{Table: p.table, Name: p.chain}
		library.FlushChain(chain)
		library.DelChain(chain)
	}
	return err
}

// has says whether there is such a chain. What the kernel does not answer is an error: DEL
// would leave the rules, and take itself for done.
func (p nftPart) has(c *nft.Conn, chain string) (bool, error) {
	return c.HasChain(nft.Table{Family: p.table.Family, Name: p.table.Name}, chain)
}

// nftPart is one place where the reference plugins have something for the
// container: rules of a chain that are its own, and perhaps a whole chain.
type nftPart struct {
	table  *nftables.Table
	parent string
	own    func(*nftables.Rule) bool
	chain  string
}

func (f reference) nftParts() []nftPart {
	masq := &nftables.Table{Name: "cni_plugins_masquerade", Family: nftables.TableFamilyINet}
	hash := sha512Hex(f.owner.Network, 16) + "-" + sha512Hex(f.owner.IfName+":"+f.owner.ContainerID, 16)
	parts := []nftPart{{masq, "masq_checks", func(r *nftables.Rule) bool { return strings.HasPrefix(commentOf(r), hash) }, ""}}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		ports := &nftables.Table{Name: "cni_hostport", Family: family}
		for _, chain := range []string{"hostports", "hostip_hostports", "masquerading"} {
			parts = append(parts, nftPart{ports, chain, f.bears, ""})
		}
		nat := &nftables.Table{Name: "nat", Family: family} // of iptables' nft variant
		for chain, parent := range f.chains() {
			parts = append(parts, nftPart{nat, parent, func(r *nftables.Rule) bool { return jumpsTo(r, chain) }, chain})
		}
	}
	return parts
}

func (p nftPart) rules(c *nft.Conn, library *nftables.Conn) ([]*nftables.Rule, error) {
	// A chain that is not there is cheaper to ask for than to list.
	if there, err := p.has(c, p.parent); err != nil || !there {
		return nil, err
	}
	if p.chain != "" {
		if there, err := p.has(c, p.chain); err != nil || !there {
			return nil, err
		}
	}
	rules, err := library.GetRules(p.table, &nftables.Chain{Name: p.parent})
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table %s: %w", p.parent, p.table.Name, err)
	}
	return slices.DeleteFunc(rules, func(r *nftables.Rule) bool { return !p.own(r) }), nil
}

// bears says whether the rule has the container's ID as comment, and leads to
// one of its addresses.
func (f reference) bears(r *nftables.Rule) bool {
	if commentOf(r) != f.owner.ContainerID {
		return false
	}
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		var data []byte
		switch e := e.(type) {
		case *expr.Immediate:
			data = e.Data
		case *expr.Cmp:
			data = e.Data
		}
		return slices.ContainsFunc(f.addresses, func(a netip.Addr) bool { return bytes.Equal(data, a.AsSlice()) })
	})
}

func jumpsTo(r *nftables.Rule, chain string) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		verdict, ok := e.(*expr.Verdict)
		return ok && verdict.Chain == chain
	})
}

// deleteFromLegacy runs programs only if the kernel has table nat of iptables-legacy.
func (f reference) deleteFromLegacy(family family) error {
	tables, err := os.ReadFile(map[bool]string{true: "/proc/net/ip_tables_names", false: "/proc/net/ip6_tables_names"}[family.is4])
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(tables)), "nat") {
		return nil
	}
	if err != nil {
		return cni.IOErrorf("read which tables iptables-legacy has: %w", err)
	}
	program := family.iptables().Program + "-legacy"
	if _, err := exec.LookPath(program); err != nil {
		program = family.iptables().Program // the host has only one variant
	}
	return deleteChains(program, slices.Collect(maps.Keys(f.chains())))
}

// referenceNetwork returns the network that the comment of such a rule names.
func referenceNetwork(comment string) string {
	_, network, _ := strings.Cut(comment, `name: "`)
	network, _, _ = strings.Cut(network, `"`)
	return network
}

// referenceContainer returns the container that a rule's comment names in the reference
// plugin's form: dnat name: "network" id: "container".
func referenceContainer(comment string) (container string, ok bool) {
	_, id, ok := strings.Cut(comment, `id: "`)
	container, _, _ = strings.Cut(id, `"`)
	return container, ok && strings.HasPrefix(comment, "dnat name: ")
}
