package nft

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// IsAlive says whether the owner of an element is alive: it has a record, a lease, or a link.
// An element without a live owner is void. A nil IsAlive takes every owner for alive.
type IsAlive func(owner string) (bool, error)

// TakenError says that an element to create exists and has another, live owner.
type TakenError struct {
	Element Element
	Holder  string // the other's label
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("%s: taken by %q in set %s of nftables table %s %s", e.Element.What, e.Holder, e.Element.Set, familyName(e.Element.Family), e.Element.Table)
}

// errMoved says that another program has changed nftables since the tables were read, so
// that it is not certain what they are after the transaction.
var errMoved = errors.New("others have changed nftables meanwhile")

// tries bounds how often a transaction is sent. It fails if another program's transaction
// comes between, or if an element in its way is about to expire.
const tries = 5

// Commit makes the changes in one transaction. It is optimistic: before the first try it
// reads only whether the tables' rules have changed, and looks at elements only after the
// transaction has failed. A failed transaction costs a grace period (synchronize_rcu in
// nf_tables_abort), but is rare.
//
//   - An element to create that another owner has is a *TakenError if isAlive says that
//     this owner is alive; otherwise it is replaced.
//   - An element to remove gets a timeout of which one millisecond is left. It expires
//     within two ticks, which costs nothing (Linux 6.12 and newer). Older kernels leave
//     the timeout of an element as it is: there it is deleted, which costs a grace period
//     when the socket is closed.
//   - If the answer to a transaction is lost, the kernel is asked what came of it.
//
// The caller holds the lock of the records that the changes follow from.
func (c *Conn) Commit(changes Changes, isAlive IsAlive) error {
	if changes.Empty() {
		return nil
	}
	err := c.connect()
	if isUnsupported(err) {
		if len(changes.Tables)+len(changes.Create) == 0 {
			return nil // what cannot be there is gone
		}
		return fmt.Errorf("nf_tables: %w (%w)", ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	changes.Remove = Without(changes.Remove, changes.Create)
	var replace []Element
	var since uint32 // the generation at which the elements were looked up
	var last error
	for try := range tries {
		err := c.try(changes, replace, since, try == 0)
		switch {
		case err == nil:
			return c.finish(changes.Remove)
		case errors.Is(err, ErrUnsupported):
			return err
		case errors.Is(err, errMoved): // whatever else it says
		case isUnsupported(err) && len(changes.Remove) > 0:
			// A set of an earlier release has no timeouts, and a kernel without
			// nf_tables has no sets.
			if err := c.delete(changes.Remove); err != nil {
				return err
			}
			if changes.Remove = nil; changes.Empty() {
				return nil
			}
			continue
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOENT), errors.Is(err, errLost):
		default:
			return err
		}
		last, since = err, c.generation()
		if changes.Create, replace, err = c.resolve(changes.Create, isAlive, err); err != nil {
			return err
		}
		if changes.Remove, err = c.present(changes.Remove); err != nil {
			return err
		}
	}
	return c.giveUp(changes.Tables, last)
}

// giveUp says why it was in vain.
func (c *Conn) giveUp(tables []Table, last error) error {
	if isMissing(last) {
		if err := c.lacks(tables); err != nil {
			return err
		}
	}
	return fmt.Errorf("given up after %d tries, since others change the same at the same time: %w", tries, last)
}

// lacks is ErrUnsupported where the kernel cannot make one of the tables, whatever others
// change meanwhile: each is made under a name that nobody else has, and deleted again by the
// same transaction. That costs a grace period, and is for who is about to give up.
func (c *Conn) lacks(tables []Table) error {
	for _, t := range tables {
		t, err := t.Whole()
		if err != nil {
			return err
		}
		t.Name, t.Former = "trestle-"+rand.Text(), nil
		messages, err := c.bring(t, state{})
		if err != nil {
			return err
		}
		c.library.DelTable(t.library())
		deletion, err := c.library.messages()
		if err != nil {
			return err
		}
		if err := c.peer.commit(append(messages, deletion...)); isMissing(err) {
			return fmt.Errorf("make tables of nftables: %w (%w)", ErrUnsupported, err)
		}
	}
	return nil
}

// try sends the transaction once. Tables that are known to be as they shall are not
// read again if trust is true; otherwise everything that the changes are about was looked
// up at the generation since, or later.
func (c *Conn) try(changes Changes, replace []Element, since uint32, trust bool) error {
	messages, looked, at, err := c.tableMessages(changes.Tables, trust)
	if err != nil {
		return err
	}
	made := len(messages) > 0
	if made {
		// What went with its table would be made anew, only to expire, and kernel 5.10 makes
		// nothing else of that key until it has collected it, a second later.
		if changes.Remove, err = c.present(changes.Remove); err != nil {
			return err
		}
	}
	elements, err := changes.elementMessages(replace)
	if err != nil {
		return err
	}
	messages = append(messages, elements...)
	if len(messages) > 0 {
		err = c.peer.commit(messages)
	}
	if err != nil {
		err = fmt.Errorf("change nftables: %w", err)
		if made && at != 0 && c.generation() != at {
			return fmt.Errorf("%w (%w)", err, errMoved)
		}
		// If a transaction that makes tables is refused as unsupported, it is the tables,
		// unless it also lets elements expire. If something is missing, it is what the tables
		// need from the kernel, unless it was a set of a table that was not read again, or
		// something that has gone since it was looked up: by "nft flush ruleset", or because
		// it expired.
		unsupported := isUnsupported(err) && (!trust || len(changes.Remove) == 0)
		missing := !trust && len(replace) == 0 && errors.Is(err, unix.ENOENT) && c.generation() == since
		if made && (unsupported || missing) {
			return fmt.Errorf("make tables of nftables: %w (%w)", ErrUnsupported, err)
		}
		return err
	}
	if at != 0 {
		at++ // by this transaction
	}
	settled, err := c.remember(looked, at)
	if err == nil && !settled {
		return errMoved
	}
	return err
}

// elementMessages returns the messages about elements, in the order that the kernel needs.
func (c Changes) elementMessages(replace []Element) (messages []netlink.Message, err error) {
	steps := []struct {
		kind     int
		flags    netlink.HeaderFlags
		elements []Element
		life     *lifetime
	}{
		{unix.NFT_MSG_DELSETELEM, 0, replace, nil},
		{unix.NFT_MSG_NEWSETELEM, netlink.Create | netlink.Excl, only(c.Create, false), nil},
		{unix.NFT_MSG_NEWSETELEM, netlink.Create, only(c.Create, true), nil},
		{unix.NFT_MSG_NEWSETELEM, netlink.Create, c.Remove, &lifetime{time.Second, time.Millisecond}},
	}
	for _, step := range steps {
		more, err := elementMessages(step.kind, step.flags, step.elements, step.life)
		if err != nil {
			return nil, err
		}
		messages = append(messages, more...)
	}
	return messages, nil
}

// generation returns the kernel's count of successful transactions in this network
// namespace, by any program; 0 if the kernel does not tell.
func (c *Conn) generation() uint32 {
	request, err := message(unix.NFT_MSG_GETGEN, nftables.TableFamilyUnspecified, 0, netlink.NewAttributeEncoder())
	if err != nil {
		return 0
	}
	answers, err := c.peer.ask(request)
	if err != nil || len(answers) == 0 {
		return 0
	}
	_, attributes, err := openMessage(answers[0])
	if err != nil {
		return 0
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_GEN_ID {
			return attributes.Uint32()
		}
	}
	return 0
}

// tableMessages returns the messages that make the tables as wanted. looked are the tables
// that were compared, at the generation at or later; at is 0 if none was, or if the kernel
// does not tell. If nothing has to be changed they are remembered here, and looked is empty.
func (c *Conn) tableMessages(tables []Table, trust bool) (messages []netlink.Message, looked []Table, at uint32, err error) {
	if looked, err = c.unknown(tables, trust); err != nil || len(looked) == 0 {
		return nil, nil, 0, err
	}
	at = c.generation()
	for _, t := range looked {
		s, err := c.read(t)
		if err != nil {
			return nil, nil, 0, err
		}
		chains, sets := t.former(s)
		if len(t.diff(s))+len(chains)+len(sets) == 0 {
			continue
		}
		more, err := c.bring(t, s)
		if err != nil {
			return nil, nil, 0, err
		}
		messages = append(messages, more...)
	}
	if len(messages) == 0 {
		// A transaction that only creates elements which exist does not raise the
		// generation: afterwards it could not be told that nobody changed the tables.
		_, err := c.remember(looked, at)
		return nil, nil, at, err
	}
	return messages, looked, at, nil
}

// unknown returns the tables that have to be compared with the kernel, each whole.
func (c *Conn) unknown(tables []Table, trust bool) (unknown []Table, err error) {
	for _, t := range tables {
		known := false
		if trust {
			known, err = c.Known(t)
		}
		if err == nil && !known {
			t, err = t.Whole()
			unknown = append(unknown, t)
		}
		if err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// isSame says whether the found element is as e wants it.
func (e Element) isSame(found Element) bool {
	return (e.Shared || e.Owner == found.Owner) && bytes.Equal(e.Value, found.Value)
}

// only returns the shared elements, or those that are not. Creating a shared element that
// exists resets its timeout, so that one about to expire stays (nft_add_set_elem,
// net/netfilter/nf_tables_api.c).
func only(elements []Element, shared bool) []Element {
	return slices.DeleteFunc(slices.Clone(elements), func(e Element) bool { return e.Shared != shared })
}

// resolve looks up the elements to create after a transaction failed with err. create are
// those still to be made, replace those of them that a void element, or one of the same
// owner with another value, is in the way of.
func (c *Conn) resolve(elements []Element, isAlive IsAlive, err error) (create, replace []Element, _ error) {
	for _, e := range elements {
		found, there, findErr := c.find(e)
		if findErr != nil {
			return nil, nil, errors.Join(err, findErr)
		}
		if there && !found.Expires && e.isSame(found.Element) {
			continue
		}
		create = append(create, e)
		if !there || found.Expires {
			continue // one that expires has gone by now: a failed transaction takes longer
		}
		if found.Owner != e.Owner {
			alive, aliveErr := true, error(nil)
			if isAlive != nil {
				alive, aliveErr = isAlive(found.Owner)
			}
			if aliveErr != nil {
				return nil, nil, errors.Join(err, aliveErr)
			}
			if alive {
				return nil, nil, &TakenError{e, found.Owner}
			}
		}
		replace = append(replace, e)
	}
	return create, replace, nil
}

// present returns the elements that exist with this owner and value.
func (c *Conn) present(elements []Element) ([]Element, error) {
	var there []Element
	for _, e := range elements {
		found, ok, err := c.find(e)
		if err != nil {
			return nil, err
		}
		if ok && !found.Expires && e.isSame(found.Element) {
			there = append(there, e)
		}
	}
	return there, nil
}

// finish deletes the removed elements if the kernel did not make them expire. It looks at
// one: either the kernel can change the timeout of an element, or it cannot.
func (c *Conn) finish(removed []Element) error {
	if len(removed) == 0 {
		return nil
	}
	last := removed[len(removed)-1]
	found, there, err := c.find(last)
	if err != nil || !there || found.Expires {
		return err
	}
	return c.delete(removed)
}

// delete deletes those of the elements that exist, by NFT_MSG_DELSETELEM.
func (c *Conn) delete(elements []Element) error {
	for range tries {
		there, err := c.present(elements)
		if err != nil || len(there) == 0 {
			return err
		}
		messages, err := elementMessages(unix.NFT_MSG_DELSETELEM, 0, there, nil)
		if err != nil {
			return err
		}
		err = c.peer.commit(messages)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, errLost) {
			return fmt.Errorf("delete elements of nftables: %w", err)
		}
	}
	return errors.New("delete elements of nftables: others change them at the same time")
}
