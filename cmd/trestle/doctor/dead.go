package doctor

import (
	"fmt"
	"maps"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// dead finds leases, records and links that containers have left which are proved gone, and what a
// killed trestle run has left of its container.
func dead(h *Host) []Finding {
	all := killed(h)
	for _, n := range h.Networks {
		var of []inventory.Attachment
		for _, a := range h.On(n.Name) {
			_, isKilled := h.Killed[a.Container]
			if a.State == inventory.Dead && !isKilled && (a.Evidence.Lease || a.Evidence.Record || a.Evidence.Link) {
				of = append(of, a)
			}
		}
		if len(of) == 0 {
			continue
		}
		who := "container " + of[0].Called() + " is gone and still has "
		if len(of) > 1 {
			who = fmt.Sprintf("%d containers are gone, %s for one, and still have ", len(of), of[0].Called())
		}
		all = append(all, Finding{
			Severity: Warning, Subject: "network " + n.Name,
			Text:    who + leftBy(of) + ": the runtime has not called DEL",
			Command: "trestle gc",
			fix:     gcFix,
		})
	}
	return all
}

// leftBy counts what the attachments have: "2 addresses and 1 port".
func leftBy(attachments []inventory.Attachment) string {
	addresses, ports := 0, 0
	for _, a := range attachments {
		addresses += len(a.Addresses)
		ports += len(a.Ports)
	}
	text := fmt.Sprintf("%d %s", addresses, oneOr(addresses, "address", "addresses"))
	switch {
	case addresses == 0 && ports == 0:
		return "its interface or records"
	case ports == 0:
		return text
	case addresses == 0:
		return plural(ports, "port")
	}
	return text + " and " + plural(ports, "port")
}

// killed finds the containers of trestle run whose trestle process was killed. Their namespaces are
// still there, so that nothing else proves them dead.
func killed(h *Host) []Finding {
	var all []Finding
	for _, name := range slices.Sorted(maps.Keys(h.Killed)) {
		netns := h.Killed[name]
		left := "its network namespace, " + netns
		of := slices.DeleteFunc(slices.Clone(h.Attachments), func(a inventory.Attachment) bool {
			return a.Container != name || a.NetNS != netns && a.NetNS != ""
		})
		if len(of) > 0 {
			left += ", with " + leftBy(of)
		}
		all = append(all, Finding{
			Severity: Warning, Subject: "container " + name,
			Text:    "its trestle run was killed, and has left " + left,
			Command: "trestle gc",
			fix:     gcFix,
		})
	}
	return all
}
