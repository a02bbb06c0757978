package doctor

import (
	"fmt"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// leakedLinks finds host veths that no lease or record accounts for, and those that are on no
// bridge.
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
				Text:    fmt.Sprintf("it was made for %s, which has no lease and no record: its ADD or DEL was killed", a.Label()),
				Command: "ip link del " + a.HostLink,
			})
		case link.Master == "" && n.Driver == "bridge":
			all = append(all, Finding{
				Severity: Fault, Subject: "link " + a.HostLink,
				Text:    fmt.Sprintf("it is on no bridge, and %s is cut off: bridge %s, or the port on it, was removed", a.Label(), n.Bridge),
				Command: "trestle detach " + a.Container + " " + a.Network + "   # and attach it again",
			})
		}
	}
	return all
}

// isLeaked says whether no lease, record or cached result names the link's owner. With an IPAM
// plugin other than host-local, whose leases the inventory does not read, that proves nothing.
func (h *Host) isLeaked(a inventory.Attachment, n inventory.Network) bool {
	if n.IPAM == "host-local" || n.File == "" {
		return !a.Evidence.Lease && !a.Evidence.Cache && !a.Evidence.Record
	}
	return false
}
