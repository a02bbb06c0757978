package nft

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// peerFunc is a peer that is a function: it is called with a request or a transaction, and
// returns the answers.
type peerFunc func(messages []netlink.Message) ([]netlink.Message, error)

func (f peerFunc) ask(m netlink.Message) ([]netlink.Message, error) { return f([]netlink.Message{m}) }
func (f peerFunc) commit(messages []netlink.Message) error          { _, err := f(messages); return err }
func (peerFunc) Close() error                                       { return nil }

// model is a kernel that has elements, but of rules only knows whether there are any. It notes
// in words what it is sent.
type model struct {
	elements map[elementPlace]foundElement
	rules    string
	sent     []string // transactions
	// generation counts committed transactions; a test raises it for those of other programs.
	generation uint32
	// answer, if set, is called before a transaction is committed.
	answer func(number int) (made bool, err error)
	// found, if set, is called after an element was looked up.
	found func()
	// withoutExpiry is a kernel before 6.12, which leaves the timeout of an existing element as it is.
	withoutExpiry bool
}

func newModel(t *testing.T, elements ...Element) (*model, *Conn) {
	t.Helper()
	m, c := modelIn(t.TempDir())
	for _, e := range elements {
		m.elements[e.place()] = foundElement{Element: e}
	}
	return m, c
}

func modelIn(dir string) (*model, *Conn) {
	m := &model{elements: map[elementPlace]foundElement{}, rules: "as made", generation: 1}
	c := Open(dir)
	if err := c.use(peerFunc(m.serve)); err != nil {
		panic(err) // it only allocates
	}
	return m, c
}

func (m *model) serve(messages []netlink.Message) ([]netlink.Message, error) {
	first := messages[0]
	switch kindOf(first) {
	case unix.NFT_MSG_GETTABLE:
		return nil, unix.ENOENT
	case unix.NFT_MSG_GETRULE:
		return []netlink.Message{{Data: append(make([]byte, 4), m.rules...)}}, nil
	case unix.NFT_MSG_GETGEN:
		attribute := binary.BigEndian.AppendUint32(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, 8), unix.NFTA_GEN_ID), m.generation)
		return []netlink.Message{{Data: append(make([]byte, 4), attribute...)}}, nil
	case unix.NFT_MSG_GETSETELEM:
		asked, err := decodeElements(messages)
		if err != nil {
			return nil, err
		}
		found, there := m.elements[asked[0].place()]
		if m.found != nil {
			m.found()
		}
		if !there {
			return nil, unix.ENOENT
		}
		var life *lifetime
		if found.Expires {
			life = &lifetime{}
		}
		answer, err := elementMessage(unix.NFT_MSG_NEWSETELEM, 0, []Element{found.Element}, life)
		return []netlink.Message{answer}, err
	}
	m.sent = append(m.sent, words(messages))
	if m.answer != nil {
		made, err := m.answer(len(m.sent))
		if made {
			return nil, errors.Join(m.apply(messages), err)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, m.apply(messages)
}

// apply commits all of a transaction or nothing.
func (m *model) apply(messages []netlink.Message) error {
	after := maps.Clone(m.elements)
	for _, message := range messages {
		kind := kindOf(message)
		if kind != unix.NFT_MSG_NEWSETELEM && kind != unix.NFT_MSG_DELSETELEM {
			continue
		}
		changed, err := decodeElements([]netlink.Message{message})
		if err != nil {
			return err
		}
		for _, e := range changed {
			had, there := after[e.place()]
			switch {
			case kind == unix.NFT_MSG_DELSETELEM && !there:
				return unix.ENOENT
			case kind == unix.NFT_MSG_DELSETELEM:
				delete(after, e.place())
			case there && message.Header.Flags&netlink.Excl != 0:
				return unix.EEXIST
			case there:
				had.Expires = e.Expires && !m.withoutExpiry
				after[e.place()] = had
			default:
				after[e.place()] = e
			}
		}
	}
	m.elements = after
	m.generation++
	return nil
}

func kindOf(m netlink.Message) int { return int(m.Header.Type) & 0xff }

// words describes a transaction: the kinds of messages, each once if repeated, and elements by
// set, key and owner.
func words(messages []netlink.Message) string {
	var said []string
	for _, m := range messages {
		switch kindOf(m) {
		case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
			said = append(said, elementWords(m)...)
			continue
		}
		word := map[int]string{
			unix.NFT_MSG_NEWTABLE: "table", unix.NFT_MSG_NEWSET: "set", unix.NFT_MSG_NEWCHAIN: "chain", unix.NFT_MSG_NEWRULE: "rule",
		}[kindOf(m)]
		if word == "" {
			word = fmt.Sprintf("message %#x", uint16(m.Header.Type))
		}
		if len(said) == 0 || said[len(said)-1] != word {
			said = append(said, word)
		}
	}
	return strings.Join(said, ", ")
}

func elementWords(m netlink.Message) (said []string) {
	word := "add"
	switch {
	case kindOf(m) == unix.NFT_MSG_DELSETELEM:
		word = "delete"
	case m.Header.Flags&netlink.Excl != 0:
		word = "create"
	}
	elements, err := decodeElements([]netlink.Message{m})
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range elements {
		words := []string{word, e.Set, hex.EncodeToString(e.Key)}
		if e.Owner != "" {
			words = append(words, e.Owner)
		}
		if e.Expires {
			words = append(words, "to expire")
		}
		said = append(said, strings.Join(words, " "))
	}
	return said
}

func (m *model) mustHaveSent(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(m.sent, want) {
		t.Errorf("got the transactions\n\t%s\nwant\n\t%s", strings.Join(m.sent, "\n\t"), strings.Join(want, "\n\t"))
	}
}

const (
	mine   = "a/c1/eth0"
	theirs = "b/c2/eth0"
	key80  = "0600000000500000"
)

// TestElementBytes: the messages about elements, byte for byte (struct nfgenmsg and attributes
// of linux/netfilter/nf_tables.h).
func TestElementBytes(t *testing.T) {
	// struct nlattr has the machine's byte order, the rest the network's
	attribute := func(length, kind uint16) string {
		return hex.EncodeToString(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, length), kind))
	}
	const nested = 1 << 15
	list := "01000000" + attribute(12, 1) + "74726573746c6500" + attribute(10, 2) + "706f727473000000" // "trestle", "ports"
	key := attribute(16, 1|nested) + attribute(12, 1) + key80
	value := attribute(16, 2|nested) + attribute(12, 1) + "0a01000200500000"
	owner := attribute(16, 6) + "000a" + "612f63312f6574683000" // type 0, length 10
	life := attribute(12, 4) + "00000000000003e8" + attribute(12, 5) + "0000000000000001"
	element := func(length uint16) string { return attribute(length+4, 3|nested) + attribute(length, 1|nested) }
	for _, test := range []struct {
		name string
		kind int
		life *lifetime
		want string
	}{
		{"new", unix.NFT_MSG_NEWSETELEM, nil, list + element(0x34) + key + value + owner},
		{"expiring", unix.NFT_MSG_NEWSETELEM, &lifetime{1e9, 1e6}, list + element(0x4c) + key + value + life + owner},
		{"deleted", unix.NFT_MSG_DELSETELEM, nil, list + element(0x14) + key},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := elementMessage(test.kind, 0, []Element{port(mine, 80, 2)}, test.life)
			if got := hex.EncodeToString(m.Data); err != nil || got != test.want {
				t.Errorf("got %v\n%s, want\n%s", err, got, test.want)
			}
		})
	}
}

// TestCommitSends one transaction, tables first. Known tables are not sent again until a rule
// changes.
func TestCommitSends(t *testing.T) {
	m, c := newModel(t, port(theirs, 90, 3))
	tables := []Table{sample("a/")}
	commit(t, c, Changes{Tables: tables, Create: []Element{port(mine, 80, 2)}, Remove: []Element{port(theirs, 90, 3)}}, nil)
	commit(t, c, Changes{Tables: tables, Create: []Element{port(mine, 81, 2)}}, nil)
	m.rules = "changed by somebody"
	commit(t, c, Changes{Tables: tables, Create: []Element{port(mine, 82, 2)}}, nil)
	c.Refresh() // as a caller does that takes the lock
	commit(t, c, Changes{Tables: tables, Create: []Element{port(mine, 83, 2)}}, nil)
	commit(t, c, Changes{}, nil)
	m.mustHaveSent(
		t,
		"table, set, chain, rule, create ports "+key80+" "+mine+", add ports 06000000005a0000 "+theirs+" to expire",
		"create ports 0600000000510000 "+mine,
		"create ports 0600000000520000 "+mine, // known since the lock was taken
		"table, set, chain, rule, create ports 0600000000530000 "+mine,
	)
}

// TestLostAnswer: if the answer to a transaction is lost, the kernel is asked whether it was
// committed, and it is sent again only if not.
func TestLostAnswer(t *testing.T) {
	create, remove := "create ports "+key80+" "+mine, "add ports 06000000005a0000 "+mine+" to expire"
	for _, test := range []struct {
		name string
		made bool
		lost int // how many answers
		want []string
		err  error
	}{
		{"after it was made", true, 1, []string{create + ", " + remove}, nil},
		{"before it was made", false, 1, []string{create + ", " + remove, create + ", " + remove}, nil},
		{"every time", false, tries, slices.Repeat([]string{create + ", " + remove}, tries), errLost},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newModel(t, port(mine, 90, 2))
			m.answer = func(number int) (bool, error) {
				if number > test.lost {
					return true, nil
				}
				return test.made, errors.Join(errLost, unix.ENOBUFS)
			}
			err := c.Commit(Changes{Create: []Element{port(mine, 80, 2)}, Remove: []Element{port(mine, 90, 2)}}, everybody)
			if !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			m.mustHaveSent(t, test.want...)
		})
	}
}

// TestTaken: an element of another owner is taken while that owner is alive, and replaced
// otherwise.
func TestTaken(t *testing.T) {
	want := port(mine, 80, 2)
	create := "create ports " + key80 + " " + mine
	replaced := []string{create, "delete ports " + key80 + ", " + create}
	unknown := errors.New("nobody knows")
	expiring := func(m *model) {
		had := m.elements[want.place()]
		had.Expires = true
		m.elements[want.place()] = had
		m.answer = func(number int) (bool, error) {
			if number > 1 {
				delete(m.elements, want.place())
			}
			return true, nil
		}
	}
	for _, test := range []struct {
		name    string
		had     Element
		isAlive IsAlive
		setup   func(*model)
		sent    []string
		holds   func(error) bool
	}{
		{"alive", port(theirs, 80, 3), everybody, nil, []string{create}, isTakenBy(theirs)},
		{"nobody is asked", port(theirs, 80, 3), nil, nil, []string{create}, isTakenBy(theirs)},
		{"stale", port(theirs, 80, 3), nobody, nil, replaced, isNil},
		{"the question fails", port(theirs, 80, 3), func(string) (bool, error) { return false, unknown }, nil, []string{create}, func(err error) bool { return errors.Is(err, unknown) && errors.Is(err, unix.EEXIST) }},
		{"our own, as it shall be", want, everybody, nil, []string{create}, isNil},
		{"our own, that leads elsewhere", port(mine, 80, 3), everybody, nil, replaced, isNil},
		{"about to expire", port(theirs, 80, 3), everybody, expiring, []string{create, create}, isNil},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newModel(t, test.had)
			if test.setup != nil {
				test.setup(m)
			}
			if err := c.Commit(Changes{Create: []Element{want}}, test.isAlive); !test.holds(err) {
				t.Errorf("got error %v", err)
			}
			m.mustHaveSent(t, test.sent...)
		})
	}
}

func isNil(err error) bool { return err == nil }

func isTakenBy(holder string) func(error) bool {
	return func(err error) bool {
		var taken *TakenError
		return errors.As(err, &taken) && taken.Holder == holder && strings.Contains(err.Error(), holder)
	}
}

// TestRemove: an element is made to expire if the kernel can, and deleted if it cannot; a
// missing one is no error.
func TestRemove(t *testing.T) {
	expire, deletion := "add ports "+key80+" "+mine+" to expire", "delete ports "+key80
	for _, test := range []struct {
		name  string
		setup func(*model)
		want  []string
	}{
		{"expiry", func(*model) {}, []string{expire}},
		{"before Linux 6.12", func(m *model) { m.withoutExpiry = true }, []string{expire, deletion}},
		{"a set without timeouts", func(m *model) { m.answer = refuseFirst(unix.EINVAL) }, []string{expire, deletion}},
		{"the table went meanwhile", func(m *model) {
			m.answer = func(int) (bool, error) { clear(m.elements); return false, unix.ENOENT }
		}, []string{expire}},
		{"a deletion that somebody was quicker with", func(m *model) {
			m.withoutExpiry = true
			m.answer = func(number int) (bool, error) {
				if number == 2 {
					clear(m.elements)
				}
				return true, nil
			}
		}, []string{expire, deletion}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newModel(t, port(mine, 80, 2))
			test.setup(m)
			commit(t, c, Changes{Remove: []Element{port(mine, 80, 2)}}, nil)
			for _, left := range m.elements {
				if !left.Expires {
					t.Errorf("got %v left, want it gone or about to go", left)
				}
			}
			m.mustHaveSent(t, test.want...)
		})
	}
}

func refuseFirst(err error) func(int) (bool, error) {
	return func(number int) (bool, error) {
		if number == 1 {
			return false, err
		}
		return true, nil
	}
}

// TestUnsupported: a kernel without nf_tables, or without a chain type, is ErrUnsupported; other
// errors are not.
func TestUnsupported(t *testing.T) {
	create := []Element{port(mine, 80, 2)}
	for _, test := range []struct {
		name    string
		changes Changes
		err     error
		want    bool
	}{
		{"no nf_tables", Changes{Tables: []Table{sample()}, Create: create}, unix.EOPNOTSUPP, true},
		{"no nf_tables, and something to remove", Changes{Tables: []Table{sample()}, Create: create, Remove: []Element{port(mine, 90, 2)}}, unix.EINVAL, true},
		{"no chains of type nat", Changes{Tables: []Table{sample()}, Create: create}, unix.ENOENT, true},
		{"not allowed", Changes{Tables: []Table{sample()}, Create: create}, unix.EPERM, false},
		{"no memory", Changes{Create: create}, unix.ENOMEM, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newModel(t)
			m.answer = func(int) (bool, error) { return false, test.err }
			err := c.Commit(test.changes, everybody)
			if !errors.Is(err, test.err) || errors.Is(err, ErrUnsupported) != test.want {
				t.Errorf("got %v, want one that is %v, and ErrUnsupported: %v", err, test.err, test.want)
			}
		})
	}
}

// TestUnsupportedBesideChanges: what the kernel lacks is told from what others have in the way
// also where they change the rules all the time, by tables that are nobody else's.
func TestUnsupportedBesideChanges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		err  error
		// only says that the kernel has it, and refuses for what others do to the table.
		only bool
		sent int
		want bool
	}{
		{"no chains of type nat", unix.ENOENT, false, tries + 1, true},
		{"no kind of rules", unix.EOPNOTSUPP, false, tries + 1, true},
		{"flushed each time", unix.ENOENT, true, tries + 1, false},
		{"locked each time", unix.EBUSY, false, tries, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newModel(t)
			m.answer = func(number int) (bool, error) {
				m.generation++
				if test.only && number > tries {
					return true, nil
				}
				return false, test.err
			}
			err := c.Commit(Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 80, 2)}}, everybody)
			if !errors.Is(err, test.err) || errors.Is(err, ErrUnsupported) != test.want || len(m.sent) != test.sent {
				t.Errorf("got %v after %q, want one that is %v, and ErrUnsupported: %v", err, m.sent, test.err, test.want)
			}
			if last := m.sent[len(m.sent)-1]; test.sent > tries && (!strings.HasPrefix(last, "table, set, chain, rule, message ") || strings.Contains(last, "create")) {
				t.Errorf("got %q last, want a table made and deleted again", last)
			}
		})
	}
}

// TestFlushedMeanwhile: what others take away between the look and the transaction
// ("nft flush ruleset") is nothing that the kernel lacks.
func TestFlushedMeanwhile(t *testing.T) {
	m, c := newModel(t)
	m.answer = func(number int) (bool, error) {
		if number < 4 {
			m.generation++
			return false, unix.ENOENT
		}
		return true, nil
	}
	commit(t, c, Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 80, 2)}}, everybody)
	m.mustHaveSent(t, slices.Repeat([]string{"table, set, chain, rule, create ports " + key80 + " " + mine}, 4)...)
}

// TestRemoveWithTheTable: what has gone with its table is not made once more in the new one, to
// expire there: kernel 5.10 makes nothing of the same key until it has collected that.
func TestRemoveWithTheTable(t *testing.T) {
	m, c := newModel(t)
	commit(t, c, Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 90, 3)}, Remove: []Element{port(mine, 80, 2)}}, everybody)
	if len(m.sent) != 1 || strings.Contains(m.sent[0], key80) || len(m.elements) != 1 {
		t.Errorf("got %q and %v, want nothing about the element to remove", m.sent, m.elements)
	}
}

// TestFlushedAfterTheLook: nor does what is deleted after the elements were looked up, to
// replace or to remove them, and before the transaction.
func TestFlushedAfterTheLook(t *testing.T) {
	for _, test := range []struct {
		name    string
		changes Changes
		flush   bool // if not, the element expires
	}{
		{"flush, an element to replace", Changes{Create: []Element{port(mine, 80, 3)}}, true},
		{"expiry, an element to replace", Changes{Create: []Element{port(mine, 80, 3)}}, false},
		{"flush, an element to remove", Changes{Create: []Element{port(mine, 90, 3)}, Remove: []Element{port(mine, 80, 2)}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, c := newModel(t, port(mine, 80, 2))
			m.found = func() {
				m.found = nil
				clear(m.elements)
				if test.flush {
					m.generation++
				}
			}
			m.answer = func(number int) (bool, error) {
				if number == 1 {
					return false, unix.ENOENT // no set
				}
				return true, nil
			}
			test.changes.Tables = []Table{sample()}
			commit(t, c, test.changes, everybody)
			wanted := test.changes.Create[0]
			if got := m.elements[wanted.place()]; !bytes.Equal(got.Value, wanted.Value) || len(m.elements) != 1 {
				t.Errorf("got %v, want %v alone", m.elements, wanted)
			}
		})
	}
}

// TestFlushedBeforeTheDigest: what a flush leaves is not remembered as the wanted tables, whether
// it comes right after the transaction, after tables were found as wanted, or while they are
// read.
func TestFlushedBeforeTheDigest(t *testing.T) {
	made := "table, set, chain, rule, create ports " + key80 + " " + mine
	m, c := newModel(t)
	m.answer = func(number int) (bool, error) {
		if number == 1 {
			m.rules = "" // and the element, which the second look finds gone
			m.generation++
			return true, nil
		}
		m.rules = "as made"
		return true, nil
	}
	changes := Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 80, 2)}}
	commit(t, c, changes, everybody)
	if len(m.sent) < 2 || m.sent[0] != made || !strings.HasPrefix(m.sent[1], "table, set, chain, rule") {
		t.Errorf("got the transactions %q, want the tables made again after the flush", m.sent)
	}
	m.sent = nil
	commit(t, c, Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 81, 2)}}, everybody)
	if len(m.sent) != 1 || strings.Contains(m.sent[0], "table") {
		t.Errorf("got the transactions %q, want the tables known by then", m.sent)
	}
}

// TestCompletedIfUnknown: sets, chains and rules are made only to compare a table that is not
// known.
func TestCompletedIfUnknown(t *testing.T) {
	m, c := newModel(t)
	made := 0
	table := Table{Family: sample().Family, Name: sample().Name, Key: sample().Key, Complete: func() (Table, error) {
		made++
		return sample(), nil
	}}
	for i, step := range []struct {
		rules string
		made  int
		sent  string
	}{
		{"as made", 1, "table, set, chain, rule, create ports "},
		{"as made", 1, "create ports "},
		{"of another program", 2, "table, set, chain, rule, create ports "},
	} {
		m.rules, m.sent = step.rules, nil
		c.Refresh()
		commit(t, c, Changes{Tables: []Table{table}, Create: []Element{port(mine, byte(80+i), 2)}}, everybody)
		if made != step.made || len(m.sent) != 1 || !strings.HasPrefix(m.sent[0], step.sent) {
			t.Errorf("step %d: completed %d times and sent %q, want %d times and %q…", i, made, m.sent, step.made, step.sent)
		}
	}
}

// TestRefusedBesideAChange: a refusal while another program changes nftables ("nft -f" has
// loaded a set of other types) does not count as unsupported.
func TestRefusedBesideAChange(t *testing.T) {
	m, c := newModel(t)
	m.answer = func(number int) (bool, error) {
		if number == 1 {
			m.generation++
			return false, unix.EINVAL
		}
		return true, nil
	}
	commit(t, c, Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 80, 2)}}, everybody)
	if len(m.elements) != 1 {
		t.Errorf("got %v, want the element", m.elements)
	}
}

// TestFlushedWhileRead: after a flush between two requests about a table it counts as missing,
// which is no error.
func TestFlushedWhileRead(t *testing.T) {
	m, c := newModel(t)
	there, flushed := true, 0
	table, err := message(unix.NFT_MSG_NEWTABLE, sample().Family, 0, func() *netlink.AttributeEncoder {
		a := netlink.NewAttributeEncoder()
		a.String(unix.NFTA_TABLE_NAME, sample().Name)
		return a
	}())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	err = c.use(peerFunc(func(messages []netlink.Message) ([]netlink.Message, error) {
		switch kind := kindOf(messages[0]); {
		case kind == unix.NFT_MSG_GETTABLE && there:
			return []netlink.Message{table}, nil
		case kind == unix.NFT_MSG_GETCHAIN:
			return nil, nil
		case kind == unix.NFT_MSG_GETSET:
			there = false
			flushed++
			m.generation++
			return nil, unix.ENOENT
		}
		return m.serve(messages)
	}))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, c, Changes{Tables: []Table{sample()}, Create: []Element{port(mine, 80, 2)}}, everybody)
	if flushed != 1 || len(m.elements) != 1 {
		t.Errorf("got %d flushes and %v, want one, and the element", flushed, m.elements)
	}
}

// TestMalformed: a truncated answer is an error, not an empty set.
func TestMalformed(t *testing.T) {
	whole, err := elementMessage(unix.NFT_MSG_NEWSETELEM, 0, []Element{port(mine, 80, 2)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{nil, whole.Data[:3], whole.Data[:7], whole.Data[:len(whole.Data)-8]} {
		c := Open(t.TempDir())
		answer := []netlink.Message{{Header: whole.Header, Data: data}}
		if err := c.use(peerFunc(func([]netlink.Message) ([]netlink.Message, error) { return answer, nil })); err != nil {
			t.Fatal(err)
		}
		if found, err := c.Find([]Element{port(mine, 80, 2)}); err == nil {
			t.Errorf("%d bytes of an answer: got %v and no error", len(data), found)
		}
	}
}

// TestEditThatFails: what was staged before the error is not sent by a later transaction.
func TestEditThatFails(t *testing.T) {
	t.Parallel()
	m, c := newModel(t)
	failed := errors.New("list rules: interrupted")
	err := c.Edit(func(library *nftables.Conn) error {
		library.FlushTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyIPv4})
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	if err := c.Apply(); err != nil || len(m.sent) > 0 {
		t.Errorf("got %q, %v, want nothing sent", m.sent, err)
	}
}
