package doctor

import (
	"fmt"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// servicesLink is the link to which kube-proxy, in mode ipvs, gives the addresses of all
// services.
const servicesLink = "kube-ipvs0"

// ipvs finds ports that nftables maps on all addresses beside a kube-proxy in mode ipvs.
// There services' addresses are local to the host, so traffic for a service with that
// port goes to the container instead. The rules for iptables tell the two apart.
func ipvs(h *Host) []Finding {
	if _, ok := h.LinkOf(servicesLink); !ok {
		return nil
	}
	count := 0
	for _, n := range h.Networks {
		for _, a := range h.alive(n.Name) {
			for _, p := range a.Ports {
				if p.Backend == "nftables" && p.Host.Addr().IsUnspecified() {
					count++
				}
			}
		}
	}
	if count == 0 && (h.hasIPTables || !h.mapsPorts()) {
		return nil
	}
	f := Finding{Severity: Warning, Subject: "link " + servicesLink, Command: `editor LIST   # at portmap: "backend": "iptables"`}
	f.Text = "kube-proxy works by IPVS, and the next published port would take the traffic of services with that port: install iptables, whose rules tell the two apart"
	if count > 0 {
		f.Severity = Fault
		f.Text = fmt.Sprintf("kube-proxy works by IPVS, and nftables maps %s on all addresses, taking the traffic of services with the same port", plural(count, "port"))
	}
	if count > 0 && h.hasIPTables { // those of lists without a backend were mapped before kube-proxy was there
		f.Command, f.fix = `trestle restore   # and, if LIST has another "backend" at portmap: "backend": "iptables"`, restoreFix
	}
	return []Finding{f}
}

func (h *Host) mapsPorts() bool {
	return slices.ContainsFunc(h.Networks, func(n inventory.Network) bool { return n.Ports })
}
