package doctor

import (
	"fmt"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// leakedLinks finds host veths that nobody vouches for, and those that lead nowhere.
func leakedLinks(h *Host) []Finding {
	var all []Finding
	for _, a := range h.Attachments {
		link, ok := h.LinkOf(a.HostLink)
		if !ok || !link.Ours {
			continue
		}
		n, _ := h.NetworkOf(a.Network)
		switch {
		case h.isLeaked(a, *n):
			all = append(all, Finding{
				Severity: Warning, Subject: "link " + a.HostLink,
				Text:    fmt.Sprintf("it was made for %s, which has neither lease nor record: its ADD or DEL was killed", a.Label()),
				Command: "ip link del " + a.HostLink,
			})
		case link.Master == "" && n.Driver == "bridge":
			all = append(all, Finding{
				Severity: Fault, Subject: "link " + a.HostLink,
				Text:    fmt.Sprintf("it is on no bridge, and %s reaches nobody: bridge %s was removed, or the port taken off", a.Label(), n.Bridge),
				Command: "trestle detach " + a.Container + " " + a.Network + "   # and attach it again",
			})
		}
	}
	return all
}

// isLeaked: with leases of host-local, a link has one as long as it lives; else some
// record or a runtime's cache tells of it, unless nothing of that is used here at all.
func (h *Host) isLeaked(a inventory.Attachment, n inventory.Network) bool {
	if n.IPAM == "host-local" || n.File == "" {
		return !a.Evidence.Lease && !a.Evidence.Cache && !a.Evidence.Record
	}
	return false
}
