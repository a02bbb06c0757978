// Package ipam leases addresses to attachments. It keeps leases in host-local's directory and
// format (one file for each leased address, see lease.go), and beside them an index, so that
// no operation reads more than a few small files, however many leases there are.
//
// A caller parses the configuration (ParseConfig) and opens its store (StoreOf). ADD is
// Store.Lease, which leases an address of each Set or none at all, and pushes its inverse for
// the case that a later step fails. DEL is Store.Release, and Store.ReleaseElsewhere in case
// the configuration has named another data directory since the ADD. GC is Store.GC and
// Store.ReclaimElsewhere. Start at Store.Lease.
//
// The files of host-local are the truth, the index is not: .trestle in a network's directory
// may be removed at any time, and is rebuilt. To debug: grep . over the network's directory
// shows who has which address; Store.Verify lists inconsistencies.
package ipam
