package doctor

import (
	"context"
	"fmt"

	"github.com/trestle-cni/trestle/pkg/ipam"
)

// brokenLeases finds lease files that contradict each other.
func brokenLeases(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		if len(n.Faults) == 0 {
			continue
		}
		all = append(all, Finding{
			Severity: Warning, Subject: "network " + n.Name,
			Text:    fmt.Sprintf("its leases have %s: %s", plural(len(n.Faults), "fault"), n.Faults[0]),
			Command: "trestle ip repair " + n.Name,
			fix: func(context.Context, Tools) error {
				return ipam.NewStore(h.leaseDir(n), n.Name, patience).Repair()
			},
		})
	}
	return all
}
