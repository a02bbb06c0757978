package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Names of maps and sets; those of a family end in its number.
const (
	addressPorts      = "address_ports"      // ports mapped on one address of the host
	hairpinTargets    = "hairpin_targets"    // container ports that 127.0.0.1 and neighbours are masqueraded to
	masqueradeTargets = "masquerade_targets" // container ports that everybody is masqueraded to
	loopbackBridges   = "loopback_bridges"   // interfaces that route loopback addresses
)

func (f family) name(set string) string { return set + f.digit() }

// nftSet is a map or set to be made.
type nftSet struct {
	name      string
	key, data []nftables.SetDatatype // data: of a map
}

func portSets() []nftSet {
	sets := []nftSet{{name: loopbackBridges, key: []nftables.SetDatatype{nftables.TypeIFName}}}
	for _, f := range families() {
		proto, port, address := nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIP6Addr
		if f.is4 {
			address = nftables.TypeIPAddr
		}
		target := []nftables.SetDatatype{address, port}
		sets = append(sets,
			nftSet{f.name(hostPorts), []nftables.SetDatatype{proto, port}, target},
			nftSet{f.name(addressPorts), []nftables.SetDatatype{proto, address, port}, target},
			nftSet{f.name(hairpinTargets), []nftables.SetDatatype{address, proto, port}, nil},
			nftSet{f.name(masqueradeTargets), []nftables.SetDatatype{address, proto, port}, nil},
		)
	}
	return sets
}

func (t *nftTable) set(s nftSet) *nftables.Set {
	set := &nftables.Set{Table: t.table, Name: s.name, IsMap: s.data != nil, Concatenation: len(s.key) > 1, KeyType: s.key[0]}
	if set.Concatenation {
		set.KeyType = nftables.MustConcatSetType(s.key...)
	} else {
		set.KeyByteOrder = binaryutil.NativeEndian // as nft has it for names
	}
	if set.IsMap {
		set.DataType = nftables.MustConcatSetType(s.data...)
	}
	return set
}

// nftElement is an element that somebody has in a map or set.
type nftElement struct {
	set        string
	key, value []byte
	comment    string
	what       string // for people
}

// elements are what the rules have in maps and sets, each once.
func (r Rules) elements() []nftElement {
	var elements []nftElement
	for _, bridge := range r.Bridges {
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, bridge)
		elements = append(elements, nftElement{set: loopbackBridges, key: name, what: "guard of " + bridge})
	}
	for _, f := range r.Forwards {
		for _, m := range f.Mappings {
			elements = append(elements, f.elements(m)...)
		}
	}
	return elements
}

func (f Forward) elements(m Mapping) []nftElement {
	family := familyOf(m.Container.Addr())
	proto, host, to := []byte{m.Protocol.number()}, m.Host, m.Container
	e := nftElement{
		set: family.name(hostPorts), key: concat(proto, port(host)), value: concat(to.Addr().AsSlice(), port(to)),
		comment: f.Owner.String(), what: "mapping " + m.String(),
	}
	if !m.anyHost() {
		e.set, e.key = family.name(addressPorts), concat(proto, host.Addr().AsSlice(), port(host))
	}
	elements := []nftElement{e}
	target := nftElement{
		set: family.name(hairpinTargets), key: concat(to.Addr().AsSlice(), proto, port(to)),
		comment: e.comment, what: "masquerade for " + e.what,
	}
	if f.SNAT && f.firstTo(m) {
		elements = append(elements, target)
	}
	if f.SNAT && f.MasqueradeAll && f.firstTo(m) {
		target.set = family.name(masqueradeTargets)
		elements = append(elements, target)
	}
	return elements
}

// firstTo says whether m is the first mapping to its port of the container.
func (f Forward) firstTo(m Mapping) bool {
	same := func(other Mapping) bool { return other.Protocol == m.Protocol && other.Container == m.Container }
	return f.Mappings[slices.IndexFunc(f.Mappings, same)] == m
}

func port(a netip.AddrPort) []byte { return binary.BigEndian.AppendUint16(nil, a.Port()) }

// concat joins parts of a key as nftables does: each fills whole words.
func concat(parts ...[]byte) []byte {
	var key []byte
	for _, part := range parts {
		key = append(key, part...)
		key = append(key, make([]byte, -len(part)&3)...)
	}
	return key
}

// An element takes less than maxElement bytes, half of it the comment; so many
// perMessage keep it below the 64 KiB of a netlink attribute.
const (
	maxElement = 512
	perMessage = 127
)

// eachSet calls do, which is to add or to delete, with the elements set by set.
func (t *nftTable) eachSet(elements []nftElement, do func(*nftables.Set, []nftables.SetElement) error) error {
	var names []string
	bySet := map[string][]nftables.SetElement{}
	for _, e := range elements {
		if bySet[e.set] == nil {
			names = append(names, e.set)
		}
		bySet[e.set] = append(bySet[e.set], nftables.SetElement{Key: e.key, Val: e.value, Comment: e.comment})
	}
	if len(elements) > perMessage {
		// A transaction is sent as a whole, and must fit the socket's buffer.
		if err := t.socket.SetWriteBuffer(len(elements) * maxElement); err != nil {
			return fmt.Errorf("make room for %d elements: %w", len(elements), err)
		}
	}
	for _, name := range names {
		for some := range slices.Chunk(bySet[name], perMessage) {
			if err := do(&nftables.Set{Table: t.table, Name: name}, some); err != nil {
				return fmt.Errorf("elements of %s: %w", name, err)
			}
		}
	}
	return nil
}

// element asks the kernel for the element with e's key, which takes the same
// time however many there are.
func (t *nftTable) element(e nftElement) (have nftElement, found bool, err error) {
	request, err := t.elementRequest(e)
	if err != nil {
		return nftElement{}, false, err
	}
	answers, err := t.socket.Execute(request)
	if errors.Is(err, unix.ENOENT) {
		return nftElement{}, false, nil
	}
	if err != nil {
		return nftElement{}, false, fmt.Errorf("look up %s in set %s of nftables table inet %s: %w", e.what, e.set, t.table.Name, err)
	}
	for _, answer := range answers {
		if have, err = readElement(answer.Data); err == nil {
			return have, true, nil
		}
	}
	return nftElement{}, false, err
}

// elementRequest is NFT_MSG_GETSETELEM for one key.
func (t *nftTable) elementRequest(e nftElement) (netlink.Message, error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.table.Name)
	attributes.String(unix.NFTA_SET_ELEM_LIST_SET, e.set)
	attributes.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		list.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
			element.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
				key.Bytes(unix.NFTA_DATA_VALUE, e.key)
				return nil
			})
			return nil
		})
		return nil
	})
	data, err := attributes.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("encode a request for an nftables element: %w", err)
	}
	const getElement = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM
	return netlink.Message{
		Header: netlink.Header{Type: getElement, Flags: netlink.Request},
		Data:   append([]byte{byte(t.table.Family), unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	}, nil
}

// readElement reads the kernel's answer.
func readElement(message []byte) (nftElement, error) {
	var e nftElement
	if len(message) < 4 {
		return e, errors.New("an nftables element without a header")
	}
	attributes, err := netlink.NewAttributeDecoder(message[4:])
	if err != nil {
		return e, fmt.Errorf("decode an nftables element: %w", err)
	}
	value := func(data *netlink.AttributeDecoder) error {
		for data.Next() {
			if data.Type() == unix.NFTA_DATA_VALUE {
				e.value = data.Bytes()
			}
		}
		return data.Err()
	}
	element := func(element *netlink.AttributeDecoder) error {
		for element.Next() {
			switch element.Type() {
			case unix.NFTA_SET_ELEM_DATA:
				element.Nested(value)
			case unix.NFTA_SET_ELEM_USERDATA:
				e.comment, _ = userdata.GetString(element.Bytes(), userdata.NFTNL_UDATA_SET_ELEM_COMMENT) // none is ""
			}
		}
		return element.Err()
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			attributes.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(element)
				}
				return list.Err()
			})
		}
	}
	return e, attributes.Err()
}

// present are those of the elements that the kernel has as they are wanted; one
// with our key but somebody else's comment is not ours to delete.
func (t *nftTable) present(elements []nftElement) ([]nftElement, error) {
	var present []nftElement
	for _, e := range elements {
		have, found, err := t.element(e)
		if err != nil {
			return nil, err
		}
		if found && have.comment == e.comment {
			present = append(present, e)
		}
	}
	return present, nil
}

func (t *nftTable) elementDifferences(elements []nftElement) ([]string, error) {
	var diffs []string
	for _, e := range elements {
		have, found, err := t.element(e)
		if err != nil {
			return nil, err
		}
		switch {
		case !found:
			diffs = append(diffs, fmt.Sprintf("%s in %s of nftables table inet %s: want it, have none", e.what, e.set, t.table.Name))
		case have.comment != e.comment || !bytes.Equal(have.value, e.value):
			diffs = append(diffs, fmt.Sprintf("%s in %s of nftables table inet %s: want it %q's, have %q's", e.what, e.set, t.table.Name, e.comment, have.comment))
		}
	}
	return diffs, nil
}

// conflict names whoever has an element that was to be made, without a record.
func (t *nftTable) conflict(want Rules) error {
	for _, e := range want.elements() {
		have, found, err := t.element(e)
		if err != nil {
			return err
		}
		if found && !bytes.Equal(have.value, e.value) {
			return cni.ConflictErrorf("%s: the host port is taken by %q in %s of nftables table inet %s; delete that element if its container is gone",
				e.what, have.comment, e.set, t.table.Name)
		}
	}
	return nil
}
