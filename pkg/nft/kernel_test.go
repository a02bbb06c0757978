package nft

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/golden"
)

func nftCommand(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sample is a table with everything that ours have: maps with concatenations, a base chain of
// each type, and chains with and without an order of rules.
func sample(comments ...string) Table {
	t := Table{
		Family: nftables.TableFamilyINet, Name: "trestle", Key: "sample " + strings.Join(comments, ","),
		Sets: []Set{
			{Name: "ports", Key: []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, Data: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetService}},
			{Name: "links", Key: []nftables.SetDatatype{nftables.TypeIFName}},
		},
		Chains: []Chain{
			{Name: "by_port", Rules: []Rule{{Comment: "lookup", Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Payload{DestRegister: 9, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Lookup{SourceRegister: 1, SetName: "ports", DestRegister: 1, IsDestRegSet: true},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 9, RegProtoMax: 9, Specified: true},
			}}}},
			{Name: "prerouting", Hook: &Hook{nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest}, Rules: []Rule{{Comment: "local", Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
				&expr.Verdict{Kind: expr.VerdictJump, Chain: "by_port"},
			}}}},
			{Name: "postrouting", AnyOrder: true, Hook: &Hook{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource}},
		},
	}
	t.Chains[2].Owners = []string{"a/", "bb/"}
	for _, comment := range comments {
		t.Chains[2].Rules = append(t.Chains[2].Rules, Rule{Comment: comment, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 255, 255, 0}, Xor: []byte{0, 0, 0, 0}},
			&expr.Cmp{Register: 1, Data: []byte{10, 1, byte(len(comment)), 0}},
			&expr.Masq{},
		}})
	}
	return t
}

func port(owner string, number, address byte) Element {
	return Element{
		Family: nftables.TableFamilyINet, Table: "trestle", Set: "ports", Owner: owner, What: "port",
		Key: []byte{6, 0, 0, 0, 0, number, 0, 0}, Value: []byte{10, 1, 0, address, 0, 80, 0, 0},
	}
}

func commit(t *testing.T, c *Conn, changes Changes, isAlive IsAlive) {
	t.Helper()
	if err := c.Commit(changes, isAlive); err != nil {
		t.Fatal(err)
	}
}

func nobody(string) (bool, error)    { return false, nil }
func everybody(string) (bool, error) { return true, nil }

// TestCommit makes, changes and deletes a table in the kernel.
func TestCommit(t *testing.T) {
	golden.EnterNetNS(t)
	c := Open(t.TempDir())
	defer c.Close()
	table := sample("a/")
	changes := Changes{Tables: []Table{table}, Create: []Element{port("a/c1/eth0", 80, 2)}}
	commit(t, c, changes, nil)
	same := func(what string, want Changes) {
		t.Helper()
		diffs, err := c.Diff(want)
		if err != nil || len(diffs) > 0 {
			t.Errorf("%s: got %v, %v, want no difference\n%s", what, diffs, err, nftCommand(t, "list", "ruleset"))
		}
	}
	same("made", changes)
	commit(t, c, changes, nil)
	same("made twice", changes)

	ruleset := nftCommand(t, "list", "ruleset")
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader("flush ruleset\n" + ruleset)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("load what nft listed: %v\n%s\n%s", err, out, ruleset)
	}
	same("loaded by nft", changes)

	more := sample("a/", "bb/")
	commit(t, c, Changes{Tables: []Table{more}}, nil)
	same("with a rule more", Changes{Tables: []Table{more}})

	nftCommand(t, "flush", "ruleset")
	if diffs, _ := c.Diff(changes); len(diffs) == 0 {
		t.Error("after a flush: got no difference")
	}
	commit(t, c, changes, nil)
	same("made after a flush", changes)

	var taken *TakenError
	theirs := port("b/c2/eth0", 80, 3)
	if err := c.Commit(Changes{Create: []Element{theirs}}, everybody); !errors.As(err, &taken) || taken.Holder != "a/c1/eth0" {
		t.Errorf("another's port: got %v, want that a/c1/eth0 has it", err)
	}
	same("refused", changes)
	commit(t, c, Changes{Create: []Element{theirs}}, nobody)
	same("a void one replaced", Changes{Create: []Element{theirs}})

	commit(t, c, Changes{Remove: []Element{theirs}}, nil)
	left, err := c.List(table)
	if err != nil || len(left) > 0 {
		t.Errorf("removed: got %v, %v, want none", left, err)
	}
	began := time.Now()
	commit(t, c, Changes{Create: []Element{theirs}}, everybody)
	t.Logf("created again after %s", time.Since(began))
	same("created again", Changes{Create: []Element{theirs}})
	if err := c.DeleteIdle(table); err != nil {
		t.Error(err)
	}
	same("not idle", Changes{Create: []Element{theirs}})
	commit(t, c, Changes{Tables: []Table{sample()}, Remove: []Element{theirs}}, nil)
	if err := c.DeleteIdle(table); err != nil {
		t.Error(err)
	}
	if got := nftCommand(t, "list", "ruleset"); got != "" {
		t.Errorf("idle: got\n%s\nwant nothing", got)
	}
}

// TestShared: several owners use one element, whichever of them made it.
func TestShared(t *testing.T) {
	golden.EnterNetNS(t)
	c := Open(t.TempDir())
	defer c.Close()
	table := sample()
	element := func(owner string) Element {
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, "br0")
		return Element{Family: table.Family, Table: table.Name, Set: "links", Key: name, Owner: owner, Shared: true, What: "br0"}
	}
	for _, owner := range []string{"a/", "b/", "a/"} {
		changes := Changes{Tables: []Table{table}, Create: []Element{element(owner)}}
		commit(t, c, changes, nobody)
		if diffs, err := c.Diff(changes); err != nil || len(diffs) > 0 {
			t.Errorf("made for %s: got %v, %v, want no difference", owner, diffs, err)
		}
	}
	found, err := c.List(table)
	if err != nil || len(found) != 1 || found[0].Owner != "a/" {
		t.Errorf("got %v, %v, want one element, of who made it", found, err)
	}
	commit(t, c, Changes{Remove: []Element{element("b/")}}, nil)
	commit(t, c, Changes{Create: []Element{element("b/")}}, nil) // at once, while the removed one is still expiring
	time.Sleep(50 * time.Millisecond)
	if found, err := c.List(table); err != nil || len(found) != 1 {
		t.Errorf("removed and made again: got %v, %v, want it to stay", found, err)
	}
}

// TestRememberedUnchanged: tables that were found as wanted are not read again, even if the
// transaction changed nothing because all elements existed.
func TestRememberedUnchanged(t *testing.T) {
	golden.EnterNetNS(t)
	c := Open(t.TempDir())
	defer c.Close()
	table, element := sample("a/"), port("a/", 80, 2)
	element.Shared = true
	changes := Changes{Tables: []Table{table}, Create: []Element{element}}
	commit(t, c, changes, nil)
	if err := c.forget(table); err != nil {
		t.Fatal(err)
	}
	commit(t, c, changes, nil)
	if known, err := c.Known(table); err != nil || !known {
		t.Errorf("got %t, %v, want it known", known, err)
	}
}

// TestRemoveFromEarlierSet: sets of earlier releases have no timeouts, and "nft -f" may load one
// again at any time.
func TestRemoveFromEarlierSet(t *testing.T) {
	golden.EnterNetNS(t)
	c := Open(t.TempDir())
	defer c.Close()
	nftCommand(t, "add table inet trestle; add set inet trestle links { type ifname; }; add element inet trestle links { br0 comment \"a/\" }")
	table := sample()
	found, err := c.List(Table{Family: table.Family, Name: table.Name, Sets: table.Sets[1:]})
	if err != nil || len(found) != 1 {
		t.Fatalf("got %v, %v, want one element", found, err)
	}
	commit(t, c, Changes{Remove: found}, nil)
	if left, err := c.Find(found); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v, want it gone", left, err)
	}
	commit(t, c, Changes{Tables: []Table{table}, Create: []Element{port("a/c1/eth0", 80, 2)}, Remove: found}, nil)
}

// TestFlushedAnyTime: changes and look-ups succeed at whatever moment another program flushes the
// ruleset.
func TestFlushedAnyTime(t *testing.T) {
	golden.EnterNetNS(t)
	// Sockets are opened here: a subtest runs in another thread, in another network namespace.
	other := Open(t.TempDir())
	if err := other.connect(); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	c := Open(t.TempDir())
	defer c.Close()
	table := sample("a/")
	flush := func() {
		other.library.FlushRuleset()
		if err := other.Apply(); err != nil {
			t.Error(err)
		}
	}
	// The flush comes before the first request that the Conn sends, then before the second …,
	// until no change sends as many.
	var asked, at int
	kernel, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	moments := peerFunc(func(messages []netlink.Message) ([]netlink.Message, error) {
		if asked++; asked == at {
			flush()
		}
		if isQuestion(messages[0]) {
			return kernel.ask(messages[0])
		}
		return nil, kernel.commit(messages)
	})
	if err := c.use(moments); err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error {
			return c.Commit(Changes{Tables: []Table{table}, Create: []Element{port("a/c1/eth0", 80, 2)}}, everybody)
		}},
		{"create over one's own former", func() error {
			return c.Commit(Changes{Tables: []Table{table}, Create: []Element{port("a/c1/eth0", 80, 3)}}, everybody)
		}},
		{"create and remove", func() error {
			return c.Commit(Changes{Tables: []Table{table}, Create: []Element{port("a/c1/eth0", 90, 3)}, Remove: []Element{port("a/c1/eth0", 80, 2)}}, everybody)
		}},
		{"a rule more", func() error { return c.Commit(Changes{Tables: []Table{sample("a/", "bb/")}}, everybody) }},
		{"remove", func() error { return c.Commit(Changes{Remove: []Element{port("a/c1/eth0", 80, 2)}}, everybody) }},
		{"compare", func() error { _, err := c.Diff(Changes{Tables: []Table{table}}); return err }},
		{"list", func() error { _, err := c.ListAll(table); return err }},
		{"owners", func() error { _, err := c.Owners(table, "postrouting"); return err }},
		{"policy", func() error { _, err := c.Drops(table, "prerouting"); return err }},
		{"delete an idle table", func() error { return c.DeleteIdle(sample()) }},
	} {
		t.Run(step.name, func(t *testing.T) {
			for at = 1; ; at++ {
				asked = -1 << 20 // no flush at these requests
				c.Refresh()
				whole := Changes{Tables: []Table{table}, Create: []Element{port("a/c1/eth0", 80, 2)}}
				commit(t, c, whole, nobody)
				if diffs, err := c.Diff(whole); err != nil || len(diffs) > 0 {
					t.Fatalf("flushed before question %d, and made again: got %v, %v, want no difference", at-1, diffs, err)
				}
				asked = 0
				c.Refresh()
				if err := step.do(); err != nil {
					t.Errorf("flushed before question %d: %v", at, err)
				}
				if asked < at {
					if at < 2 {
						t.Error("asked the kernel nothing")
					}
					return
				}
			}
		})
	}
}

func isQuestion(m netlink.Message) bool {
	switch kindOf(m) {
	case unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET, unix.NFT_MSG_GETSETELEM, unix.NFT_MSG_GETGEN:
		return true
	}
	return false
}

// lacking is a peer without nf_tables (nfnetlink_rcv_msg, net/netfilter/nfnetlink.c).
type lacking struct{}

func (lacking) ask(netlink.Message) ([]netlink.Message, error) { return nil, unix.EINVAL }
func (lacking) commit([]netlink.Message) error                 { return unix.EOPNOTSUPP }
func (lacking) Close() error                                   { return nil }

// TestWithout nf_tables removing succeeds, since nothing can exist, and creating is refused.
func TestWithout(t *testing.T) {
	c := Open(t.TempDir())
	if err := c.use(lacking{}); err != nil {
		t.Fatal(err)
	}
	elements := []Element{port("a/c1/eth0", 80, 2)}
	if err := c.Commit(Changes{Remove: elements}, nil); err != nil {
		t.Errorf("remove: got %v, want no error", err)
	}
	if err := c.Commit(Changes{Tables: []Table{sample()}, Create: elements}, nil); err == nil {
		t.Error("create: got no error")
	}
	if found, err := c.Find(elements); err != nil || len(found) > 0 {
		t.Errorf("find: got %v, %v, want none", found, err)
	}
	if found, err := c.List(sample()); err != nil || len(found) > 0 {
		t.Errorf("list: got %v, %v, want none", found, err)
	}
	if tables, err := c.Tables(); err != nil || len(tables) > 0 {
		t.Errorf("tables: got %v, %v, want none", tables, err)
	}
	if err := c.DeleteIdle(sample()); err != nil {
		t.Errorf("delete an idle table: got %v, want no error", err)
	}
	if err := c.Usable(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("usable: got %v, want that the kernel lacks it", err)
	}
}

// TestTables: the list has the tables of all families, and names of any length.
func TestTables(t *testing.T) {
	golden.EnterNetNS(t)
	long := strings.Repeat("n", 200)
	nftCommand(t, "add table ip a; add table ip6 a; add table inet "+long+"; add table bridge b { flags dormant; }")
	c := Open(t.TempDir())
	defer c.Close()
	got, err := c.Tables()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Library()
	if err != nil {
		t.Fatal(err)
	}
	listed, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var want []Table
	for _, table := range listed {
		want = append(want, Table{Family: table.Family, Name: table.Name})
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) != 4 {
		t.Errorf("-library +ours:\n%s", diff)
	}
}

// TestEdit: what another program deletes after it was listed is no error, and the rest is
// changed.
func TestEdit(t *testing.T) {
	golden.EnterNetNS(t)
	nftCommand(t, "add table ip other; add chain ip other a; add rule ip other a counter; add chain ip other b; add rule ip other b counter")
	c := Open(t.TempDir())
	defer c.Close()
	table := &nftables.Table{Name: "other", Family: nftables.TableFamilyIPv4}
	looks := 0
	err := c.Edit(func(library *nftables.Conn) error {
		for _, chain := range []string{"a", "b"} {
			rules, err := library.GetRules(table, &nftables.Chain{Name: chain})
			if err != nil {
				return err
			}
			for _, r := range rules {
				if err := library.DelRule(r); err != nil {
					return err
				}
			}
		}
		if looks++; looks == 1 {
			nftCommand(t, "flush chain ip other a")
		}
		return nil
	})
	if err != nil || looks != 2 {
		t.Errorf("got %v after %d looks, want none after 2", err, looks)
	}
	if got := nftCommand(t, "list", "table", "ip", "other"); strings.Contains(got, "counter") {
		t.Errorf("got %s, want no rule", got)
	}
}
