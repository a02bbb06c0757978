package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The keys, below the cluster's own prefix.
const (
	KeyConfig = "config"
	KeyFrozen = "frozen"

	PrefixClaims   = "claims/"
	PrefixNodes    = "nodes/"
	PrefixNames    = "names/"
	PrefixReleased = "released/"
	PrefixAlive    = "alive/"
)

// Value is what a key holds, and the revision that it was written at.
type Value struct {
	Data     []byte
	Revision int64
	// Err is why there is a key and no Data that could be used, where the store knows.
	Err error
}

// View is what a store held at one moment, under the prefixes that were asked for.
type View struct {
	// Store is the id of the store itself: another one is another store, or the same
	// one made anew.
	Store    string
	Revision int64
	Keys     map[string]Value
	// Complete says that the list of nodes and of their subnets is an administrator's or
	// a control plane's own, not a sum of what hosts have said: a node that is not listed
	// is gone, and hosts claim nothing.
	Complete bool
	// Fixed says that hosts do not even publish their records there.
	Fixed bool
	// Lacking is why this host has no subnet in a Complete list, or not one of each
	// family, where the store knows.
	Lacking error
}

// Under gives the keys below the prefix, without it.
func (v View) Under(prefix string) map[string]Value {
	under := map[string]Value{}
	for key, value := range v.Keys {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			under[rest] = value
		}
	}
	return under
}

// Change is one key written, or deleted where there is neither Data nor Err.
type Change struct {
	Key string
	Value
}

// Condition is what must hold of a key for a transaction to happen.
type Condition struct {
	Key string
	// Absent asks that there is none; else it must hold exactly Data. (The revision that
	// it was written at would not do: a store restored from a backup has others.)
	Absent bool
	Data   []byte
}

// Write puts Data under the key, or deletes it where Data is nil.
type Write struct {
	Key  string
	Data []byte
}

// Txn happens as a whole if all conditions hold, or not at all.
type Txn struct {
	If   []Condition
	Then []Write
}

func (t *Txn) put(key string, data []byte) { t.Then = append(t.Then, Write{key, data}) }
func (t *Txn) delete(key string)           { t.Then = append(t.Then, Write{Key: key}) }
func (t *Txn) absent(key string)           { t.If = append(t.If, Condition{Key: key, Absent: true}) }
func (t *Txn) unchanged(key string, v Value) {
	t.If = append(t.If, Condition{Key: key, Data: v.Data})
}

// Store is where the hosts of a cluster find each other.
type Store interface {
	// Get reads keys at one moment: those named, and all below what ends in a slash.
	Get(ctx context.Context, keys ...string) (View, error)
	// Commit says whether the transaction happened. After an error that is not known;
	// after ErrUnsure it is worth while to look at once.
	Commit(ctx context.Context, txn Txn) (bool, error)
	// Watch calls changed for each change under the prefix after the revision, several
	// at once where they come together, until ctx ends or something is amiss: then Get
	// again. Where the store has been made anew it may be silent for ever.
	Watch(ctx context.Context, prefix string, after int64, changed func([]Change)) error
}

// ErrUnsure says of a Commit that its answer was lost, or did not come soon: it may have
// been done, or be done later.
var ErrUnsure = errors.New("whether it was done is not known")

// ErrReadOnly is for a store that only its administrator writes.
var ErrReadOnly = errors.New("the store is the administrator's to write")

// subnetKey is how a subnet is written in keys: a slash would be a level of its own.
func subnetKey(s netip.Prefix) string { return s.Addr().String() + "-" + strconv.Itoa(s.Bits()) }

func parseSubnetKey(key string) (netip.Prefix, error) {
	i := strings.LastIndexByte(key, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("%q has no length", key)
	}
	return netip.ParsePrefix(key[:i] + "/" + key[i+1:])
}

// ClaimKey is the key of a claim; its tombstone has PrefixReleased instead.
func ClaimKey(network string, s netip.Prefix) string {
	return PrefixClaims + network + "/" + subnetKey(s)
}

// parseOwnedKey is the inverse of both, without their prefix.
func parseOwnedKey(key string) (network string, s netip.Prefix, err error) {
	network, rest, ok := strings.Cut(key, "/")
	if !ok {
		return "", s, fmt.Errorf("%q names no network", key)
	}
	s, err = parseSubnetKey(rest)
	return network, s, err
}
