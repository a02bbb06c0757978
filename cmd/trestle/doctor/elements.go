package doctor

import (
	"fmt"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// strayElements finds elements of Trestle's tables whose owner is gone. They do no harm: an ADD
// that needs the same key replaces them.
func strayElements(h *Host) []Finding {
	known := map[string]bool{}
	for _, n := range h.Networks {
		known[cni.NetworkLabel(n.Name)] = true
	}
	for _, a := range h.Attachments {
		known[a.Label()] = true
	}
	var owners []string
	for _, e := range h.Elements {
		if e.Owner == "" || known[e.Owner] || slices.Contains(owners, e.Owner) {
			continue
		}
		owners = append(owners, e.Owner)
	}
	if len(owners) == 0 {
		return nil
	}
	return []Finding{{
		Severity: Warning, Subject: "nftables",
		Text:    fmt.Sprintf("Trestle's tables have elements of %s that %s gone, for example %s", plural(len(owners), "owner"), oneOr(len(owners), "is", "are"), owners[0]),
		Command: "trestle gc", fix: gcFix,
	}}
}
