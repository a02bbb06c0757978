// Package ipam knows who has which address. It keeps host-local's directory
// (one file per leased address, see lease.go) and beside it an index, so that
// no operation reads more than a few small files, however many leases there are.
//
// A caller reads a Config (ParseConfig) and the Store that it names (StoreOf). ADD is
// Store.Lease, which takes an address of each Set or none at all, and Store.Undo; DEL is
// Store.Release and Store.ReleaseElsewhere, for configurations that were edited; GC is
// Store.GC, which also takes back what is provably dead. Start at Store.Lease.
//
// The files of host-local are the truth, the index is not: .trestle below a network's
// directory may be removed at any time, and is rebuilt. To debug: grep . over the
// network's directory shows who has which address; Store.Verify says what does not fit.
package ipam
