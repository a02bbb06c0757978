package nat

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// foundMapping is a port mapping that a chain in the kernel makes.
type foundMapping struct {
	Mapping
	chain     string
	owner     string // the owner's label; of a mapping of the reference plugin the container's ID
	reference bool
}

// foundJump is a rule in CNI-HOSTPORT-DNAT that jumps to an attachment's chain.
type foundJump struct {
	protocol  Protocol
	ports     []string
	owner     string
	reference bool
	chain     string
}

// jumps returns the rules that jump to attachments' chains, ours and the reference plugin's.
func (t ipTable) jumps() []foundJump {
	var jumps []foundJump
	for _, rule := range t.In[dnatChain] {
		words := wordsOf(rule)
		j := foundJump{
			protocol: Protocol(option(words, "-p")),
			chain:    option(words, "-j"),
			ports:    strings.Split(option(words, "--dports"), ","),
		}
		if !strings.HasPrefix(j.chain, ownerPrefix) {
			continue
		}
		comment := option(words, "--comment")
		if j.owner, j.reference = referenceContainer(comment); !j.reference {
			label, _, ok := strings.Cut(comment, " ")
			if _, ours := cni.ParseOwner(label); !ok || !ours {
				continue
			}
			j.owner = label
		}
		jumps = append(jumps, j)
	}
	return jumps
}

// overlapping returns other owners' mappings that conflict with one of p's.
func (t ipTable) overlapping(p ownedPorts, f family) []foundMapping {
	var all []foundMapping
	for _, j := range t.jumps() {
		in := func(m Mapping) bool {
			return m.Host.Addr().Is4() == f.is4 && m.Protocol == j.protocol && slices.Contains(j.ports, strconv.Itoa(int(m.Host.Port())))
		}
		if !slices.ContainsFunc(p.Mappings, in) {
			continue
		}
		for _, found := range t.mappings(j.chain, f) {
			if slices.ContainsFunc(p.Mappings, found.overlaps) {
				all = append(all, foundMapping{found, j.chain, j.owner, j.reference})
			}
		}
	}
	return all
}

// mappings returns the port mappings that an attachment's chain makes.
func (t ipTable) mappings(chain string, f family) []Mapping {
	var all []Mapping
	for _, rule := range t.In[chain] {
		words := wordsOf(rule)
		port, portErr := strconv.ParseUint(option(words, "--dport"), 10, 16)
		to, toErr := netip.ParseAddrPort(option(words, "--to-destination"))
		if portErr != nil || toErr != nil {
			continue // a rule that marks packets, or returns those with a loopback address
		}
		host := f.unspecified()
		if on, err := netip.ParsePrefix(option(words, "-d")); err == nil {
			host = on.Addr()
		}
		all = append(all, Mapping{Protocol: Protocol(option(words, "-p")), Host: netip.AddrPortFrom(host, uint16(port)), Container: to})
	}
	return all
}

// read adds to p the port mappings that a chain makes, and the options that follow from its
// rules.
func (t ipTable) read(chain string, f family, p *Ports) {
	found := t.mappings(chain, f)
	p.Mappings = append(p.Mappings, found...)
	for _, rule := range t.In[chain] {
		words := wordsOf(rule)
		source, err := netip.ParsePrefix(option(words, "-s"))
		if option(words, "-j") != "MARK" || len(found) == 0 {
			continue
		}
		p.SNAT, p.MarkBit = true, markBit(option(words, "--set-xmark"))
		if err != nil || source.Bits() == 0 {
			p.MasqueradeAll = true
			continue
		}
		subnet := netip.PrefixFrom(found[0].Container.Addr(), source.Bits())
		if !slices.Contains(p.Subnets, subnet) {
			p.Subnets = append(p.Subnets, subnet)
		}
	}
}

func markBit(mask string) int {
	value, _, _ := strings.Cut(mask, "/")
	for bit := range 32 {
		if set, err := strconv.ParseUint(value, 0, 32); err == nil && set == 1<<bit {
			return bit
		}
	}
	return defaultMarkBit
}

// overlaps says whether both mappings have an address and port of the host in common.
func (m Mapping) overlaps(other Mapping) bool {
	return m.Protocol == other.Protocol && m.Host.Port() == other.Host.Port() && overlap(m.Host.Addr().String(), other.Host.Addr())
}

func (f family) unspecified() netip.Addr {
	if f.is4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// wordsOf splits a rule as iptables-save prints it.
func wordsOf(rule string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted, escaped := false, false, false
	for _, r := range rule {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '"':
			quoted, inWord = !quoted, true
		case r == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// option returns the word after an option; a negated match counts as absent.
func option(words []string, name string) string {
	i := slices.Index(words, name)
	if i < 0 || i+1 == len(words) || i > 0 && words[i-1] == "!" {
		return ""
	}
	return words[i+1]
}

// foundChain is an attachment's or a network's chain and where it was found.
type foundChain struct {
	program, chain string
	table          ipTable
	family         family
}

// removeChains removes such chains and the jumps to them.
func removeChains(chains []foundChain) error {
	byProgram := map[string][]foundChain{}
	for _, c := range chains {
		byProgram[c.program] = append(byProgram[c.program], c)
	}
	var errs []error
	for program, own := range byProgram {
		var names []string
		for _, c := range own {
			names = append(names, c.chain)
		}
		errs = append(errs, deleteChains(program, names))
	}
	return errors.Join(errs...)
}

// seenIPTables is a file that says that the tables of iptables were searched since boot: from
// then on every owner of port mappings in them has a record. A reboot removes it together
// with the tables; forget removes it when no record is left.
func (h *Host) seenIPTables() string { return filepath.Join(h.store.Dir("nft"), "iptables") }

func (h *Host) lostIPTables() (bool, error) {
	_, err := os.Lstat(h.seenIPTables())
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

func (h *Host) noteIPTables() error {
	err := os.MkdirAll(filepath.Dir(h.seenIPTables()), 0o700)
	if err == nil {
		err = rawfile.Write(h.seenIPTables(), nil, 0o600)
	}
	if err != nil {
		return cni.IOErrorf("note that iptables' tables were looked at: %w", err)
	}
	return nil
}

// isOutOfReach says whether err is that the program for a table is missing, and warns then:
// the table may have chains of ours, or of the reference plugins under the same names.
func (t ipTables) isOutOfReach(err error) bool {
	if !errors.Is(err, iptables.ErrNoProgram) {
		return false
	}
	t.h.warn("rules in it stay: %v", err)
	return true
}

// list returns our chains of attachments and networks, by label. Tables that iptables cannot
// read are rebuilt first.
func (t ipTables) list() (map[string][]foundChain, error) {
	found := map[string][]foundChain{}
	for _, f := range families() {
		programs, err := t.programs(f.iptables(), false, []string{dnatChain, natPostrouting})
		if err != nil {
			return nil, err
		}
		for _, program := range programs {
			have, err := saveNAT(program)
			if t.isOutOfReach(err) {
				continue
			}
			if err == nil {
				err = t.clearUnreadable(program, f, have)
			}
			if err != nil {
				return nil, err
			}
			for label, chain := range have.chainsOfOurs() {
				found[label] = append(found[label], foundChain{program, chain, have, f})
			}
		}
	}
	return found, nil
}

func (t ipTable) chainsOfOurs() map[string]string {
	chains := map[string]string{}
	for _, j := range t.jumps() {
		if !j.reference {
			chains[j.owner] = j.chain
		}
	}
	for _, rule := range t.In[natPostrouting] {
		words := wordsOf(rule)
		label, _, _ := strings.Cut(option(words, "--comment"), " ")
		if chain := option(words, "-j"); strings.HasPrefix(chain, networkPrefix) && strings.HasSuffix(label, "/") {
			chains[label] = chain
		}
	}
	return chains
}

// forget removes the network's masquerade, and the shared chains that are not used afterwards.
func (t ipTables) forget(network string) error {
	chain := chainName(networkPrefix, network)
	for _, f := range families() {
		programs, err := t.programs(f.iptables(), false, []string{chain, natPostrouting, dnatChain, masqChain})
		if err != nil {
			return err
		}
		for _, program := range programs {
			err := changeNAT(program, func(have ipTable) ([]string, error) { return have.deleteChains(append(have.idle(chain), chain)), nil })
			if err != nil && !t.isOutOfReach(err) {
				return err
			}
		}
	}
	if left, err := record.List[translation](t.h.store, place, ""); err != nil || len(left) > 0 {
		return err
	}
	if err := os.Remove(t.h.seenIPTables()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cni.IOErrorf("forget iptables' tables: %w", err)
	}
	return nil
}

// idle returns the shared chains that are not used once the chain gone is deleted. If the
// table has a chain that only the reference plugin makes, those shared with it stay.
func (t ipTable) idle(gone string) []string {
	var chains []string
	if !slices.ContainsFunc(t.In[natPostrouting], func(rule string) bool { return !strings.HasSuffix(rule, " -j "+gone) }) {
		chains = append(chains, natPostrouting)
	}
	if len(t.In[dnatChain]) > 0 || t.hasChain(setMarkChain) {
		return chains
	}
	chains = append(chains, dnatChain)
	if !slices.ContainsFunc(t.In[masqChain], func(rule string) bool { return !strings.Contains(rule, " --mark ") }) {
		chains = append(chains, masqChain)
	}
	return chains
}

// isFormer says whether an earlier release made the chain. Those had other names for port
// mappings, and in table raw a loopback filter for each bridge.
func isFormer(chain string) bool {
	return slices.ContainsFunc([]string{"TRESTLE-PORTS", "TRESTLE-P-", "TRESTLE-MARK-", "TRESTLE-LOOPBACK", "TRESTLE-L-"},
		func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

func (t ipTable) former() []string {
	var chains []string
	for chain := range t.Policies {
		if isFormer(chain) {
			chains = append(chains, chain)
		}
	}
	return chains
}

// removeFormer removes the chains of earlier releases.
func (t ipTables) removeFormer() error {
	var errs []error
	for _, f := range families() {
		for table, chain := range map[string]string{natTable: "TRESTLE-PORTS", "raw": "TRESTLE-LOOPBACK"} {
			variants, err := f.iptables().Variants(t.h.conn, table)
			errs = append(errs, err)
			for _, program := range variants {
				errs = append(errs, t.removeFormerFrom(program, table, chain))
			}
		}
	}
	return errors.Join(errs...)
}

func (t ipTables) removeFormerFrom(program, table, chain string) error {
	there, err := iptables.HasChain(t.h.conn, program, table, chain)
	if err != nil || !there {
		return err
	}
	err = iptables.Change(program, table, func(have iptables.Table) ([]string, error) {
		former := ipTable{have}
		return former.deleteChains(former.former()), nil
	})
	if t.isOutOfReach(err) {
		return nil
	}
	return err
}

// loopback returns what port mappings in iptables need in nftables to be reached by
// 127.0.0.1. On a kernel without nf_tables that is nothing: there they work on other addresses
// only.
func (h *Host) loopback(want, unwanted []ownedPorts) (nft.Changes, error) {
	changes := loopbackChanges(want, unwanted)
	if changes.Empty() {
		return changes, nil
	}
	err := h.conn.Usable()
	if errors.Is(err, nft.ErrUnsupported) {
		return nft.Changes{}, nil
	}
	return changes, err
}

func (h *Host) diffLoopback(want []ownedPorts) ([]string, error) {
	changes, err := h.loopback(want, nil)
	if err != nil || changes.Empty() {
		return nil, err
	}
	return h.conn.Diff(changes)
}
