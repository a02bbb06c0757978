// Package ipam knows who has which address. It keeps host-local's directory
// (one file per leased address, see lease.go) and beside it an index, so that
// no operation reads more than a few small files, however many leases there are.
package ipam
