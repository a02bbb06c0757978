package nat

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// nftTable is table "inet trestle". It looks before it changes anything: a
// transaction that fails costs a grace period of 8 to 16 ms (synchronize_rcu in
// nf_tables_abort), and so does each that deletes, at the latest when the
// socket is closed. All goes over one socket.
type nftTable struct {
	conn  *nftables.Conn
	table *nftables.Table
}

const postrouting = "postrouting"

func openNFTables() (*nftTable, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	return &nftTable{conn, &nftables.Table{Name: "trestle", Family: nftables.TableFamilyINet}}, nil
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

// flush sends the transaction.
func (t *nftTable) flush(what string) error {
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("%s in nftables table inet %s: %w", what, t.table.Name, err)
	}
	return nil
}

func (t *nftTable) add(want Rules) error {
	have, err := t.rules(postrouting)
	if err != nil {
		return err
	}
	changed := false
	for _, n := range want.Networks {
		if n.sameAs(have) {
			continue
		}
		if !changed {
			t.base()
		}
		changed = true
		if err := t.deleteRules(have, n.label()); err != nil {
			return err
		}
		t.addNetwork(n)
	}
	if !changed {
		return nil
	}
	return t.flush("add rules")
}

// base makes what holds rules; each part is let be where it is there already.
func (t *nftTable) base() {
	t.conn.AddTable(t.table)
	t.conn.AddChain(&nftables.Chain{
		Name: postrouting, Table: t.table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
}

func (t *nftTable) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: t.table}
}

func (t *nftTable) addNetwork(n NetworkRule) {
	for _, exprs := range n.exprs() {
		t.conn.AddRule(&nftables.Rule{
			Table: t.table, Chain: t.chain(postrouting), Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, n.label()),
		})
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

func (t *nftTable) remove(rules Rules, all bool) error {
	there, err := t.exists()
	if err != nil || !there {
		return err
	}
	if all {
		t.conn.DelTable(t.table)
		return t.flush("delete all")
	}
	have, err := t.rules(postrouting)
	if err != nil {
		return err
	}
	for _, n := range rules.Networks {
		if err := t.deleteRules(have, n.label()); err != nil {
			return err
		}
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
	t.base()
	for _, n := range want.Networks {
		t.addNetwork(n)
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
	have, err := t.rules(postrouting)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for _, n := range want.Networks {
		if !n.sameAs(have) {
			diffs = append(diffs, fmt.Sprintf("masquerade of network %s in nftables table inet %s: want the rule for %v, have %s",
				n.Network, t.table.Name, n.Prefixes, absentOrOther(labelled(have, n.label()))))
		}
	}
	return diffs, nil
}

func absentOrOther(rules []*nftables.Rule) string {
	if len(rules) == 0 {
		return "none"
	}
	return "another one"
}

// rules are those of a chain; none where chain or table is missing.
func (t *nftTable) rules(chain string) ([]*nftables.Rule, error) {
	rules, err := t.conn.GetRules(t.table, t.chain(chain))
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table inet %s: %w", chain, t.table.Name, err)
	}
	return rules, nil
}

func labelled(rules []*nftables.Rule, label string) []*nftables.Rule {
	var found []*nftables.Rule
	for _, rule := range rules {
		if comment, ok := userdata.GetString(rule.UserData, userdata.TypeComment); ok && comment == label {
			found = append(found, rule)
		}
	}
	return found
}

// sameAs says whether the rules of the chain have the network as it is wanted.
func (n NetworkRule) sameAs(chain []*nftables.Rule) bool {
	have, want := labelled(chain, n.label()), n.exprs()
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		if !bytes.Equal(marshal(have[i].Exprs), marshal(want[i])) {
			return false
		}
	}
	return true
}

// marshal makes expressions comparable.
func marshal(exprs []expr.Any) []byte {
	var all []byte
	for _, e := range exprs {
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			data = []byte(strings.ToUpper(err.Error())) // equal to nothing that can be marshalled
		}
		all = append(all, data...)
	}
	return all
}
