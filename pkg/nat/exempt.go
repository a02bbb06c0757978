package nat

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Base chains of type nat at a hook are evaluated in turn until one translates the
// connection. A rule of iptables that accepts a packet, to exempt it from NAT, ends only the
// chains of iptables: a rule of nftables that matches the packet still translates it.

// servicesLink is the interface to which kube-proxy, in mode ipvs, adds the addresses of all
// services: they are local addresses then, and a port mapped on all addresses of the host
// would take connections to a service with that port. A rule of nftables cannot tell the
// two apart: fib does not say which interface has a local address. kube-proxy has rules in
// table nat of iptables, before all others, that accept packets to services.
const servicesLink = "kube-ipvs0"

// portsBackend is resolve for port mappings: it also chooses iptables if kube-proxy works by
// IPVS, whose rules there exempt packets to services.
func (h *Host) portsBackend(b Backend) (Backend, error) {
	if b == Auto && mustExempt() {
		return IPTables, nil
	}
	return h.resolve(b)
}

// mustExempt says whether kube-proxy works by IPVS, and the host has the program for the rules
// that spare its services.
func mustExempt() bool {
	return servesByIPVS() && iptables.Installed(iptables.IPv4().Program)
}

// following is the record, with its ports in iptables if they were mapped by nftables before
// kube-proxy worked by IPVS, and nobody named a backend. After a boot, containers may start
// before kube-proxy.
func following(rec attachmentRecord) (_ attachmentRecord, moved bool) {
	ports := rec.Value.Ports
	if ports == nil || !ports.Auto || ports.Backend != NFTables || ports.fits(IPTables) != nil {
		return rec, false
	}
	other := *ports
	other.Backend = IPTables
	rec.Value.Ports = &other
	return rec, true
}

// followKubeProxy moves all port mappings that are not where an ADD would make them now. A
// failure is another attachment's, and a warning: `trestle restore` tries again. Records are
// read only if nftables maps a port: as a rule that is so once, if at all.
func (h *Host) followKubeProxy() {
	if !servesByIPVS() {
		return
	}
	mapped, err := h.conn.List(portsTable())
	var all []attachmentRecord
	if len(mapped) > 0 {
		all, err = record.List[translation](h.store, place, "")
	}
	for _, rec := range all {
		if moved, ok := following(rec); ok {
			err = errors.Join(err, h.move(rec, moved))
		}
	}
	if err != nil {
		h.warn("mapped ports stay in nftables, where they take the traffic of services with the same port: %v", err)
	}
}

// move brings an attachment's ports from one backend to another. If some are not reserved for it,
// another container may have them, and GC decides.
func (h *Host) move(from, to attachmentRecord) error {
	held, _, err := h.reserved(from.Owner, from.Value)
	if err != nil || len(held.Ports.Mappings) < len(from.Value.Ports.Mappings) {
		return err
	}
	if err := h.write(to); err != nil {
		return err
	}
	to.Value.Masquerade = nil // it stays
	return h.applyRecord(to, from.Value, nft.Changes{})
}

// PortsStatus is Status for port mappings.
func (h *Host) PortsStatus(b Backend) error {
	backend, err := h.portsBackend(b)
	if err != nil {
		return cni.UnavailableErrorf("NAT: %w", err)
	}
	return h.Status(backend)
}

func servesByIPVS() bool {
	_, err := os.Lstat("/proc/sys/net/ipv4/conf/" + servicesLink)
	return err == nil
}

// warnExempt warns of rules of iptables that exempt packets from NAT: the nftables backend is
// not bound by them.
func (h *Host) warnExempt() error {
	const wayOut = `backend "iptables" (of bridge "ipMasqBackend") is bound by it, nftables is not`
	if servesByIPVS() {
		h.warn("kube-proxy has the addresses of services on %s: a port mapped on all addresses takes what is for a service with that port; %s", servicesLink, wayOut)
	}
	conn, err := h.conn.Library()
	if err != nil {
		return err
	}
	for _, f := range families() {
		table := &nftables.Table{Name: natTable, Family: nftables.TableFamilyIPv6}
		if f.is4 {
			table.Family = nftables.TableFamilyIPv4
		}
		for _, chain := range []string{"PREROUTING", "OUTPUT", "POSTROUTING"} {
			there, err := h.conn.HasChain(nft.Table{Family: table.Family, Name: table.Name}, chain)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
			rules, err := conn.GetRules(table, &nftables.Chain{Name: chain})
			if err != nil {
				return fmt.Errorf("list chain %s of nftables table %s: %w", chain, table.Name, err)
			}
			if n := len(slices.DeleteFunc(rules, func(r *nftables.Rule) bool { return !exempts(r) })); n > 0 {
				h.warn("chain %s in table %s of %s has %d rules that exempt packets from translation; %s", chain, natTable, f.iptables().Program, n, wayOut)
			}
		}
	}
	return nil
}

func exempts(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		verdict, ok := e.(*expr.Verdict)
		return ok && (verdict.Kind == expr.VerdictAccept || verdict.Kind == expr.VerdictReturn)
	})
}
