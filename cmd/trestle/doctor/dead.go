package doctor

import (
	"fmt"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// dead finds leases, records and links that containers have left which are proved gone.
func dead(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		var of []inventory.Attachment
		addresses, ports := 0, 0
		for _, a := range h.On(n.Name) {
			if a.State == inventory.Dead && (a.Evidence.Lease || a.Evidence.Record || a.Evidence.Link) {
				of = append(of, a)
				addresses += len(a.Addresses)
				ports += len(a.Ports)
			}
		}
		if len(of) == 0 {
			continue
		}
		all = append(all, Finding{
			Severity: Warning, Subject: "network " + n.Name,
			Text: fmt.Sprintf("%s %s gone and %s %s and %s still, %s for one: the runtime has not called DEL",
				plural(len(of), "container"), oneOr(len(of), "is", "are"), oneOr(len(of), "has", "have"),
				fmt.Sprintf("%d %s", addresses, oneOr(addresses, "address", "addresses")), plural(ports, "port"), of[0].Container),
			Command: "trestle gc",
			fix:     gcFix,
		})
	}
	return all
}
