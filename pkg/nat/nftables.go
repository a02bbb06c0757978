package nat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftTable is table "inet trestle". It looks before it changes anything: a
// transaction that fails costs a grace period of 8 to 16 ms (synchronize_rcu in
// nf_tables_abort), and so does each that deletes, at the latest when the
// socket is closed. All goes over one socket.
type nftTable struct {
	conn   *nftables.Conn
	socket *netlink.Conn // conn's own, for what conn cannot ask
	table  *nftables.Table
}

func openNFTables() (*nftTable, error) {
	t := &nftTable{table: &nftables.Table{Name: "trestle", Family: nftables.TableFamilyINet}}
	return t, t.open()
}

func (t *nftTable) open() error {
	keep := func(socket *netlink.Conn) error {
		t.socket = socket
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(keep))
	if err != nil {
		return fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	t.conn = conn
	return nil
}

func (t *nftTable) close() error {
	if err := t.conn.CloseLasting(); err != nil {
		return fmt.Errorf("close the netlink socket for nftables: %w", err)
	}
	return nil
}

// supported says whether the kernel has nf_tables; nfnetlink answers EINVAL for
// a subsystem that it does not know (nfnetlink_rcv_msg, net/netfilter/nfnetlink.c).
func (t *nftTable) supported() (bool, error) {
	_, err := t.exists()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return err == nil, err
}

func (t *nftTable) exists() (bool, error) {
	_, err := t.conn.ListTableOfFamily(t.table.Name, t.table.Family)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table inet %s: %w", t.table.Name, err)
	}
	return true, nil
}

// flush sends the transaction, which is one message to the kernel. After a
// failure there may be answers that nobody waits for: the socket is made anew.
func (t *nftTable) flush(what string) error {
	err := t.conn.Flush()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s in nftables table inet %s: %w", what, t.table.Name, err)
	return errors.Join(err, t.close(), t.open())
}

func (t *nftTable) add(want Rules) error {
	have, err := t.rules(postrouting)
	if err != nil {
		return err
	}
	if err := t.stage(want, have); err != nil {
		return err
	}
	err = t.flush("add rules")
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		return errors.Join(t.conflict(want), err)
	}
	return err
}

// stage puts into the transaction what chain postrouting lacks of want, what
// holds it, and the elements, which are let be where they are there already.
func (t *nftTable) stage(want Rules, have []*nftables.Rule) error {
	if len(have) == 0 {
		t.conn.AddTable(t.table)
		t.addChain(postroutingChain())
	}
	if len(want.Forwards) > 0 && len(labelled(have, mappedLabel)) == 0 {
		if err := t.addPortChains(); err != nil {
			return err
		}
	}
	for _, group := range want.groups() {
		if group.sameAs(have) {
			continue
		}
		if err := t.deleteRules(have, group.label); err != nil {
			return err
		}
		t.addRules(postrouting, group)
	}
	return t.eachSet(want.elements(), t.conn.SetAddElements)
}

// addPortChains makes what port mappings need beside chain postrouting.
func (t *nftTable) addPortChains() error {
	for _, set := range portSets() {
		if err := t.conn.AddSet(t.set(set), nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.name, err)
		}
	}
	for _, chain := range portChains() {
		t.addChain(chain)
		t.conn.FlushChain(t.chain(chain.Name)) // it is empty, unless somebody broke a part out of ours
		t.addRules(chain.Name, chain.group)
	}
	return nil
}

func (t *nftTable) addChain(c nftChain) {
	c.Table = t.table
	t.conn.AddChain(&c.Chain)
}

func (t *nftTable) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: t.table}
}

func (t *nftTable) addRules(chain string, group nftGroup) {
	for _, exprs := range group.rules {
		rule := &nftables.Rule{Table: t.table, Chain: t.chain(chain), Exprs: exprs}
		if group.label != "" {
			rule.UserData = userdata.AppendString(nil, userdata.TypeComment, group.label)
		}
		t.conn.AddRule(rule)
	}
}

func (t *nftTable) deleteRules(have []*nftables.Rule, label string) error {
	for _, rule := range labelled(have, label) {
		if err := t.conn.DelRule(rule); err != nil {
			return fmt.Errorf("delete rule %d: %w", rule.Handle, err)
		}
	}
	return nil
}

// remove sends one transaction. Only where that fails, since something of ours
// is gone already, does it look what there is.
func (t *nftTable) remove(rules Rules, all bool) error {
	there, err := t.exists()
	if err != nil || !there {
		return err
	}
	elements := rules.elements()
	if all {
		if all, err = t.holdsOnly(rules.groups(), elements); err != nil {
			return err
		}
	}
	if all {
		t.conn.DelTable(t.table)
		return t.flush("delete all")
	}
	err = t.removeParts(rules.groups(), elements)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if elements, err = t.present(elements); err != nil {
		return err
	}
	return t.removeParts(rules.groups(), elements)
}

// holdsOnly says whether the table has nothing beside these: others have more
// than the records tell of, where those were lost.
func (t *nftTable) holdsOnly(groups []nftGroup, elements []nftElement) (bool, error) {
	have, err := t.rules(postrouting)
	if err != nil {
		return false, err
	}
	mapped := false
	for _, rule := range have {
		label := commentOf(rule)
		mapped = mapped || label == mappedLabel
		if label != mappedLabel && !slices.ContainsFunc(groups, func(g nftGroup) bool { return g.label == label }) {
			return false, nil
		}
	}
	if !mapped {
		return true, nil // without these rules there are no sets
	}
	for _, set := range portSets() {
		in, err := t.conn.GetSetElements(t.set(set))
		if err != nil {
			return false, fmt.Errorf("list %s of nftables table inet %s: %w", set.name, t.table.Name, err)
		}
		for _, have := range in {
			ours := func(e nftElement) bool { return e.set == set.name && bytes.Equal(e.key, have.Key) }
			if !slices.ContainsFunc(elements, ours) {
				return false, nil
			}
		}
	}
	return true, nil
}

func (t *nftTable) removeParts(groups []nftGroup, elements []nftElement) error {
	if len(groups) > 0 {
		have, err := t.rules(postrouting)
		if err != nil {
			return err
		}
		for _, group := range groups {
			if group.label == mappedLabel {
				continue // stays with the table
			}
			if err := t.deleteRules(have, group.label); err != nil {
				return err
			}
		}
	}
	if err := t.eachSet(elements, t.conn.SetDeleteElements); err != nil {
		return err
	}
	return t.flush("delete rules")
}

func (t *nftTable) replace(want Rules) error {
	there, err := t.exists()
	if err != nil {
		return err
	}
	if there {
		t.conn.DelTable(t.table)
	}
	if err := t.stage(want, nil); err != nil {
		return err
	}
	return t.flush("restore all rules")
}

// usable asks the kernel, not for programs.
func (t *nftTable) usable() error {
	supported, err := t.supported()
	if err == nil && !supported {
		return errors.New("the kernel has no nf_tables")
	}
	return err
}

func (t *nftTable) differences(want Rules) ([]string, error) {
	var diffs []string
	chains := []nftChain{{Chain: nftables.Chain{Name: postrouting}}}
	if len(want.Forwards) > 0 {
		chains = append(chains, portChains()...)
	}
	for _, chain := range chains {
		have, err := t.rules(chain.Name)
		if err != nil {
			return nil, err
		}
		groups := []nftGroup{chain.group}
		if chain.Name == postrouting {
			groups = want.groups()
		}
		for _, group := range groups {
			if !group.sameAs(have) {
				diffs = append(diffs, fmt.Sprintf("rules for %s in chain %s of nftables table inet %s: want %d, have %s",
					group.what, chain.Name, t.table.Name, len(group.rules), fewerOrOthers(len(labelled(have, group.label)))))
			}
		}
	}
	lost, err := t.elementDifferences(want.elements())
	return append(diffs, lost...), err
}

func fewerOrOthers(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("%d that differ", n)
}

// rules are those of a chain; none where chain or table is missing.
func (t *nftTable) rules(chain string) ([]*nftables.Rule, error) {
	rules, err := t.conn.GetRules(t.table, t.chain(chain))
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table inet %s: %w", chain, t.table.Name, err)
	}
	return rules, nil
}
