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
	// Err is why the store cannot read the key's data, if it cannot.
	Err error
}

// View is a snapshot of a store: the keys that were asked for.
type View struct {
	// Store is the store's id. Another id means another store, or that it was created again.
	Store    string
	Revision int64
	Keys     map[string]Value
	// Complete says that an administrator or a control plane maintains the list of nodes and
	// their subnets: a node that is not listed is gone, and hosts claim nothing.
	Complete bool
	// Fixed says that hosts do not publish records either.
	Fixed bool
	// Lacking is why this host has no subnet, or not one of each family, in a Complete list,
	// if the store knows.
	Lacking error
}

// Under returns the keys below the prefix, without the prefix.
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

// Condition is what must be true of a key for a transaction to be done.
type Condition struct {
	Key string
	// Absent says that the key must not exist; otherwise its data must equal Data. (To compare
	// revisions would not do: a store restored from a backup has other ones.)
	Absent bool
	Data   []byte
}

// Write puts Data under the key, or deletes it where Data is nil.
type Write struct {
	Key  string
	Data []byte
}

// Txn is a transaction: if all conditions are true, all writes are done, otherwise none.
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
	// Get reads a snapshot: the keys named, and all keys below those that end in a slash.
	Get(ctx context.Context, keys ...string) (View, error)
	// Commit says whether the transaction was done. After an error that is not known; after
	// ErrUnsure the caller should read the store again at once.
	Commit(ctx context.Context, txn Txn) (bool, error)
	// Watch calls changed with the changes under the prefix after the revision, until ctx ends
	// or there is an error; then the caller starts again with Get. If the store was created
	// again, Watch may be silent for ever.
	Watch(ctx context.Context, prefix string, after int64, changed func([]Change)) error
}

// ErrUnsure is Commit's error if the answer was lost or late: the transaction may have been
// done, or be done later.
var ErrUnsure = errors.New("whether it was done is not known")

// ErrReadOnly is for a store that only its administrator writes.
var ErrReadOnly = errors.New("the store is the administrator's to write")

// subnetKey is a subnet as keys have it, with "-" for "/", which separates the parts of a key.
func subnetKey(s netip.Prefix) string { return s.Addr().String() + "-" + strconv.Itoa(s.Bits()) }

func parseSubnetKey(key string) (netip.Prefix, error) {
	i := strings.LastIndexByte(key, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("%q has no length", key)
	}
	return netip.ParsePrefix(key[:i] + "/" + key[i+1:])
}

// ClaimKey is the key of a claim. That of its tombstone has PrefixReleased instead.
func ClaimKey(network string, s netip.Prefix) string {
	return PrefixClaims + network + "/" + subnetKey(s)
}

// parseOwnedKey reads the key of a claim or tombstone, without its prefix.
func parseOwnedKey(key string) (network string, s netip.Prefix, err error) {
	network, rest, ok := strings.Cut(key, "/")
	if !ok {
		return "", s, fmt.Errorf("%q names no network", key)
	}
	s, err = parseSubnetKey(rest)
	return network, s, err
}
