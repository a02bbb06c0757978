package nft

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var nativeEndian = binaryutil.NativeEndian

// Conn is a connection to nf_tables in the thread's network namespace, for one goroutine.
// A caller that reads and then changes holds record.Store's lock over both.
type Conn struct {
	dir     string
	peer    peer // nil until it is needed
	library *library
	// knowledge is what was read since Refresh, by the tables' names.
	knowledge map[string]knowledge
}

// Open returns a Conn that remembers in files of dir which tables were found as wanted (see
// Table.Key). It neither opens a socket nor reads a file yet.
func Open(dir string) *Conn { return &Conn{dir: dir} }

func (c *Conn) connect() error {
	if c.peer != nil {
		return nil
	}
	s, err := openSocket()
	if err != nil {
		return err
	}
	return c.use(s)
}

func (c *Conn) use(p peer) error {
	l, err := newLibrary(p)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	c.peer, c.library = p, l
	return nil
}

// Close closes the socket. The kernel then waits a grace period for objects of nf_tables
// that any program has deleted, more than ten milliseconds: so callers delete links before,
// and release locks before. It returns no error, since the answers to all changes have been
// read.
func (c *Conn) Close() {
	if c.peer != nil {
		_ = c.peer.Close() // as above
	}
	c.peer, c.library = nil, nil
}

// ErrUnsupported says that the kernel lacks what a Table needs: nf_tables, or its
// chains of type nat (nft_chain_nat, a module of its own before Linux 5.2).
var ErrUnsupported = errors.New("the kernel lacks it")

// Usable returns ErrUnsupported if the kernel has no nf_tables. Only Commit finds out
// whether it has the chain types that a Table needs.
func (c *Conn) Usable() error {
	_, err := c.exists(Table{Family: nftables.TableFamilyINet, Name: "trestle"})
	if isUnsupported(err) {
		return fmt.Errorf("nf_tables: %w (%w)", ErrUnsupported, err)
	}
	return err
}

func (c *Conn) exists(t Table) (bool, error) {
	if err := c.connect(); err != nil {
		return false, err
	}
	_, err := c.library.ListTableOfFamily(t.Name, t.Family)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table %s: %w", t, err)
	}
	return true, nil
}

// Exists says whether the table is there; a kernel without nf_tables has none.
func (c *Conn) Exists(t Table) (bool, error) {
	there, err := c.exists(t)
	return there, ignoreUnsupported(err)
}

// HasChain says whether the table, which may be another program's, has a chain of this
// name.
func (c *Conn) HasChain(t Table, chain string) (bool, error) {
	_, there, err := c.policyOf(t, chain)
	return there, err
}

// Drops says whether the table, which may be another program's, has a base chain of
// this name with the policy "drop".
func (c *Conn) Drops(t Table, chain string) (bool, error) {
	policy, _, err := c.policyOf(t, chain)
	return policy == nftables.ChainPolicyDrop, err
}

// policyOf looks a chain up by a single request, since the chain may be deleted at any
// time. The policy of a chain that is not a base chain is accept.
func (c *Conn) policyOf(t Table, chain string) (policy nftables.ChainPolicy, there bool, err error) {
	policy = nftables.ChainPolicyAccept
	if err := c.connect(); err != nil {
		return policy, false, ignoreUnsupported(err)
	}
	attributes := netlink.NewAttributeEncoder()
	attributes.String(unix.NFTA_CHAIN_TABLE, t.Name)
	attributes.String(unix.NFTA_CHAIN_NAME, chain)
	request, err := message(unix.NFT_MSG_GETCHAIN, t.Family, 0, attributes)
	if err != nil {
		return policy, false, err
	}
	answers, err := c.peer.ask(request)
	if isMissing(err) || (err == nil && len(answers) == 0) {
		return policy, false, nil
	}
	if err != nil {
		return policy, false, fmt.Errorf("look for chain %s of nftables table %s: %w", chain, t, err)
	}
	_, found, err := openMessage(answers[0])
	if err != nil {
		return policy, false, fmt.Errorf("decode chain %s of nftables table %s: %w", chain, t, err)
	}
	for found.Next() {
		if found.Type() == unix.NFTA_CHAIN_POLICY {
			policy = nftables.ChainPolicy(found.Uint32())
		}
	}
	return policy, true, nil
}

// DeleteTable deletes the table, whatever is in it.
func (c *Conn) DeleteTable(t Table) error {
	for {
		there, err := c.Exists(t)
		if err != nil || !there {
			return errors.Join(err, c.forget(t))
		}
		c.library.DelTable(t.library())
		messages, err := c.library.messages()
		if err == nil {
			err = c.peer.commit(messages)
		}
		if err == nil {
			return c.forget(t)
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, errLost) {
			return fmt.Errorf("delete nftables table %s: %w", t, err)
		}
	}
}

// DeleteIdle deletes the table if its sets are empty and no rule has the label of an
// attachment or a network as comment.
func (c *Conn) DeleteIdle(t Table) error {
	there, err := c.Exists(t)
	if err != nil || !there {
		return err
	}
	sets, err := c.library.GetSets(t.library())
	if err != nil {
		return fmt.Errorf("list sets of nftables table %s: %w", t, err)
	}
	for _, set := range sets {
		elements, err := c.listSet(nil, t, set.Name)
		if err != nil || len(elements) > 0 {
			return err
		}
	}
	chains, err := c.library.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return fmt.Errorf("list chains of nftables: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != t.Name {
			continue
		}
		rules, err := c.rulesOf(t, chain.Name)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			if isOwned(rule.Comment) {
				return nil
			}
		}
	}
	return c.DeleteTable(t)
}

// Tables lists the tables of all programs, by their family and name; a kernel without
// nf_tables has none. It does not use the library, whose dialing costs an ADD as much as the
// question itself.
func (c *Conn) Tables() ([]Table, error) {
	if err := c.connect(); err != nil {
		return nil, ignoreUnsupported(err)
	}
	request, err := message(unix.NFT_MSG_GETTABLE, nftables.TableFamilyUnspecified, netlink.Dump, netlink.NewAttributeEncoder())
	if err != nil {
		return nil, err
	}
	answers, err := c.peer.ask(request)
	if isUnsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	return decodeTables(answers)
}

// decodeTables reads NFT_MSG_NEWTABLE messages.
func decodeTables(messages []netlink.Message) (tables []Table, err error) {
	for _, m := range messages {
		family, attributes, err := openMessage(m)
		if err != nil {
			return nil, fmt.Errorf("decode a table of nftables: %w", err)
		}
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_TABLE_NAME {
				tables = append(tables, Table{Family: family, Name: attributes.String()})
			}
		}
		if err := attributes.Err(); err != nil {
			return nil, fmt.Errorf("decode a table of nftables: %w", err)
		}
	}
	return tables, nil
}

// Library returns google/nftables on this Conn's socket: to read other programs' tables,
// and to stage changes that Apply sends.
func (c *Conn) Library() (*nftables.Conn, error) {
	if err := c.connect(); err != nil {
		return nil, err
	}
	return c.library.Conn, nil
}

// RulesWith returns the rules of a chain whose encoding contains any of these byte
// strings. Decoding all rules would take ten times as long as listing them.
func (c *Conn) RulesWith(chain *nftables.Chain, data [][]byte) ([]*nftables.Rule, error) {
	if err := c.connect(); err != nil {
		return nil, err
	}
	c.library.reads = func(rule []byte) bool {
		return slices.ContainsFunc(data, func(d []byte) bool { return bytes.Contains(rule, d) })
	}
	defer func() { c.library.reads = nil }()
	return c.library.GetRules(chain.Table, chain)
}

// Apply sends what was staged by Library as one transaction.
func (c *Conn) Apply() error {
	messages, err := c.library.messages()
	if err != nil || len(messages) == 0 {
		return err
	}
	return c.peer.commit(messages)
}

// Edit changes other programs' tables: stage reads them by library and stages changes to
// what it finds, and Edit applies these. If something of it was deleted meanwhile, stage is
// called again.
func (c *Conn) Edit(stage func(library *nftables.Conn) error) error {
	if err := c.connect(); err != nil {
		return err
	}
	var failed error
	for range tries {
		if err := stage(c.library.Conn); err != nil {
			_, _ = c.library.messages() // drop what was staged, or the next transaction would send it
			return err
		}
		if failed = c.Apply(); !errors.Is(failed, unix.ENOENT) {
			return failed
		}
	}
	return failed
}

// Diff describes, for people, what Commit would change.
func (c *Conn) Diff(want Changes) ([]string, error) {
	if err := c.connect(); err != nil {
		return nil, err
	}
	var all []string
	for _, t := range want.Tables {
		t, err := t.Whole()
		if err != nil {
			return nil, err
		}
		s, err := c.read(t)
		if err != nil {
			return nil, err
		}
		all = append(all, t.diff(s)...)
	}
	for _, e := range want.Create {
		found, there, err := c.find(e)
		if err != nil {
			return nil, err
		}
		where := fmt.Sprintf("%s in set %s of nftables table %s %s", e.What, e.Set, familyName(e.Family), e.Table)
		switch {
		case !there || found.Expires:
			all = append(all, where+": want it, have none")
		case !e.isSame(found.Element):
			all = append(all, fmt.Sprintf("%s: want it %q's, have %q's", where, e.Owner, found.Owner))
		}
	}
	return all, nil
}

// Lost returns the comments of the table's rules that the kernel lacks, or has otherwise.
func (c *Conn) Lost(t Table) ([]string, error) {
	if known, err := c.Known(t); err != nil || known {
		return nil, err
	}
	t, err := t.Whole()
	if err != nil {
		return nil, err
	}
	s, err := c.read(t)
	var comments []string
	for _, chain := range t.Chains {
		lacking, ok := chain.lacking(s.rules[chain.Name])
		if !ok {
			lacking = chain.Rules
		}
		for _, rule := range lacking {
			comments = append(comments, rule.Comment)
		}
	}
	return comments, err
}

// Owners returns the labels that rules of a chain have as comments, each once.
func (c *Conn) Owners(t Table, chain string) ([]string, error) {
	there, err := c.HasChain(t, chain)
	if err != nil || !there {
		return nil, err
	}
	rules, err := c.rulesOf(t, chain)
	var labels []string
	for _, rule := range rules {
		if isOwned(rule.Comment) && !slices.Contains(labels, rule.Comment) {
			labels = append(labels, rule.Comment)
		}
	}
	return labels, err
}

// Text describes all that a Key stands for, and is the same on every host. A test per
// package compares its digest, so that whoever changes a table changes its Key.
func (t Table) Text() string {
	text := "table " + t.String() + "\n"
	for _, set := range t.Sets {
		text += fmt.Sprintf("set %s %d %d\n", set.Name, width(set.Key), width(set.Data))
	}
	for _, name := range t.Former {
		text += "former " + name + "\n"
	}
	for _, chain := range t.Chains {
		text += "chain " + chain.Name
		if chain.Hook != nil {
			text += fmt.Sprintf(" %s %d %d", chain.Hook.Type, *chain.Hook.Hook, *chain.Hook.Priority)
		}
		text += "\n"
		for _, rule := range chain.Rules {
			text += "\t" + rule.meaning() + "\n"
		}
	}
	return text
}

// Join concatenates lists of expressions.
func Join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}
