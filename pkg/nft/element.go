package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages about elements are made here rather than by the library, which can neither
// create exclusively (NLM_F_EXCL) nor set an expiration, and cannot look up one element.

// foundElement is an element as the kernel has it.
type foundElement struct {
	Element
	// Expires says that Changes.Remove has given it a timeout.
	Expires bool
}

// InterfaceKey returns an interface's name as the sets of type ifname have it. One that is too
// long, as in an edited record, is cut.
func InterfaceKey(name string) []byte {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return key
}

// Interface returns the interface name that the element's key is, or begins with.
func (e Element) Interface() string {
	name, _, _ := bytes.Cut(e.Key[:min(len(e.Key), unix.IFNAMSIZ)], []byte{0})
	return string(name)
}

// perMessage elements, of less than 512 bytes each, half of it the comment, stay below the
// 64 KiB that the attribute around them may have.
const perMessage = 127

// elementMessages returns messages of one type (NFT_MSG_NEWSETELEM …), each with up to
// perMessage elements of one set.
func elementMessages(kind int, flags netlink.HeaderFlags, elements []Element, life *lifetime) ([]netlink.Message, error) {
	type set struct {
		family      nftables.TableFamily
		table, name string
	}
	var order []set
	bySet := map[set][]Element{}
	for _, e := range elements {
		s := set{e.Family, e.Table, e.Set}
		if bySet[s] == nil {
			order = append(order, s)
		}
		bySet[s] = append(bySet[s], e)
	}
	var messages []netlink.Message
	for _, s := range order {
		for len(bySet[s]) > 0 {
			n := min(len(bySet[s]), perMessage)
			message, err := elementMessage(kind, flags, bySet[s][:n], life)
			if err != nil {
				return nil, err
			}
			messages = append(messages, message)
			bySet[s] = bySet[s][n:]
		}
	}
	return messages, nil
}

// lifetime is an element's timeout and what is left of it.
type lifetime struct{ timeout, left time.Duration }

// elementMessage is about elements of one set.
func elementMessage(kind int, flags netlink.HeaderFlags, elements []Element, life *lifetime) (netlink.Message, error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	attributes.String(unix.NFTA_SET_ELEM_LIST_TABLE, elements[0].Table)
	attributes.String(unix.NFTA_SET_ELEM_LIST_SET, elements[0].Set)
	attributes.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		for _, e := range elements {
			list.Nested(unix.NFTA_LIST_ELEM, func(a *netlink.AttributeEncoder) error {
				e.encode(a, kind == unix.NFT_MSG_NEWSETELEM, life)
				return nil
			})
		}
		return nil
	})
	return message(kind, elements[0].Family, flags, attributes)
}

// encode writes the element's attributes; to look up or delete one the key is enough.
func (e Element) encode(a *netlink.AttributeEncoder, complete bool, life *lifetime) {
	value := func(data []byte) func(*netlink.AttributeEncoder) error {
		return func(a *netlink.AttributeEncoder) error {
			a.Bytes(unix.NFTA_DATA_VALUE, data)
			return nil
		}
	}
	a.Nested(unix.NFTA_SET_ELEM_KEY, value(e.Key))
	if !complete {
		return
	}
	if len(e.Value) > 0 {
		a.Nested(unix.NFTA_SET_ELEM_DATA, value(e.Value))
	}
	if life != nil {
		a.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(life.timeout.Milliseconds()))
		a.Uint64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(life.left.Milliseconds()))
	}
	if e.Owner != "" {
		a.Bytes(unix.NFTA_SET_ELEM_USERDATA, userdata.AppendString(nil, userdata.NFTNL_UDATA_SET_ELEM_COMMENT, e.Owner))
	}
}

// message returns a message of nf_tables: struct nfgenmsg (linux/netfilter/nfnetlink.h) and
// the attributes.
func message(kind int, family nftables.TableFamily, flags netlink.HeaderFlags, attributes *netlink.AttributeEncoder) (netlink.Message, error) {
	data, err := attributes.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("encode for nftables: %w", err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	}, nil
}

// openMessage returns what message has put into a message of nf_tables.
func openMessage(m netlink.Message) (nftables.TableFamily, *netlink.AttributeDecoder, error) {
	if len(m.Data) < 4 {
		return 0, nil, errors.New("a message without a header")
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return 0, nil, err
	}
	attributes.ByteOrder = binary.BigEndian
	return nftables.TableFamily(m.Data[0]), attributes, nil
}

// find looks up the element with e's key, which takes the same time however many the set
// has. A missing set or table has none.
func (c *Conn) find(e Element) (foundElement, bool, error) {
	request, err := elementMessage(unix.NFT_MSG_GETSETELEM, 0, []Element{e}, nil)
	if err != nil {
		return foundElement{}, false, err
	}
	answers, err := c.peer.ask(request)
	if isMissing(err) {
		return foundElement{}, false, nil
	}
	if err != nil {
		return foundElement{}, false, fmt.Errorf("look up %s in set %s of nftables table %s %s: %w", e.What, e.Set, familyName(e.Family), e.Table, err)
	}
	found, err := decodeElements(answers)
	if err != nil || len(found) == 0 {
		return foundElement{}, false, err
	}
	return found[0], true, nil
}

// Find looks up the elements with these keys; those that are missing or expiring are left
// out.
func (c *Conn) Find(elements []Element) ([]Element, error) {
	if err := c.connect(); err != nil {
		return nil, ignoreUnsupported(err)
	}
	var there []Element
	for _, e := range elements {
		found, ok, err := c.find(e)
		if err != nil {
			return nil, err
		}
		if ok && !found.Expires {
			found.What = e.What
			there = append(there, found.Element)
		}
	}
	return there, nil
}

// List returns all elements of the table's sets that are not expiring. It takes longer the
// more elements there are, so ADD and DEL use Find.
func (c *Conn) List(t Table) ([]Element, error) {
	if err := c.connect(); err != nil {
		return nil, ignoreUnsupported(err)
	}
	var all []Element
	for _, set := range t.Sets {
		var err error
		if all, err = c.listSet(all, t, set.Name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// ListAll is List for every set that the kernel's table has, for people. It uses only the
// family and name of t.
func (c *Conn) ListAll(t Table) ([]Element, error) {
	there, err := c.Exists(t)
	if err != nil || !there {
		return nil, err
	}
	sets, err := c.library.GetSets(t.library())
	if err != nil {
		return nil, fmt.Errorf("list sets of nftables table %s: %w", t, err)
	}
	all := Table{Family: t.Family, Name: t.Name}
	for _, set := range sets {
		if !set.Anonymous {
			all.Sets = append(all.Sets, Set{Name: set.Name})
		}
	}
	return c.List(all)
}

// listSet appends the set's elements to all.
func (c *Conn) listSet(all []Element, t Table, set string) ([]Element, error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
	attributes.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	request, err := message(unix.NFT_MSG_GETSETELEM, t.Family, netlink.Dump, attributes)
	if err != nil {
		return nil, err
	}
	answers, err := c.peer.ask(request)
	if isMissing(err) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list set %s of nftables table %s: %w", set, t, err)
	}
	err = eachElement(answers, func(f foundElement) {
		if !f.Expires {
			f.What = "element of " + f.Owner
			all = append(all, f.Element)
		}
	})
	return all, err
}

// isMissing says whether a table, chain, set or element does not exist; a kernel without
// nf_tables has none (nfnetlink_rcv_msg, net/netfilter/nfnetlink.c).
func isMissing(err error) bool { return errors.Is(err, unix.ENOENT) || isUnsupported(err) }

func isUnsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// ignoreUnsupported is for requests to which a kernel without nf_tables means "none".
func ignoreUnsupported(err error) error {
	if isUnsupported(err) {
		return nil
	}
	return err
}

func decodeElements(messages []netlink.Message) (all []foundElement, err error) {
	err = eachElement(messages, func(f foundElement) { all = append(all, f) })
	return all, err
}

// eachElement reads NFT_MSG_NEWSETELEM messages.
func eachElement(messages []netlink.Message, take func(foundElement)) error {
	for _, m := range messages {
		family, attributes, err := openMessage(m)
		if err != nil {
			return fmt.Errorf("decode an nftables element: %w", err)
		}
		in := Element{Family: family}
		for attributes.Next() {
			switch attributes.Type() {
			case unix.NFTA_SET_ELEM_LIST_TABLE:
				in.Table = attributes.String()
			case unix.NFTA_SET_ELEM_LIST_SET:
				in.Set = attributes.String()
			case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
				attributes.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						found := foundElement{Element: in}
						list.Nested(found.decode)
						take(found)
					}
					return list.Err()
				})
			}
		}
		if err := attributes.Err(); err != nil {
			return fmt.Errorf("decode an nftables element: %w", err)
		}
	}
	return nil
}

func (f *foundElement) decode(element *netlink.AttributeDecoder) error {
	value := func(to *[]byte) func(*netlink.AttributeDecoder) error {
		return func(data *netlink.AttributeDecoder) error {
			for data.Next() {
				if data.Type() == unix.NFTA_DATA_VALUE {
					*to = data.Bytes()
				}
			}
			return data.Err()
		}
	}
	for element.Next() {
		switch element.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			element.Nested(value(&f.Key))
		case unix.NFTA_SET_ELEM_DATA:
			element.Nested(value(&f.Value))
		case unix.NFTA_SET_ELEM_EXPIRATION:
			f.Expires = true
		case unix.NFTA_SET_ELEM_USERDATA:
			f.Owner = Comment(element.Bytes())
		}
	}
	return element.Err()
}
