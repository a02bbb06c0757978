package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// missingRules finds rules that are recorded and missing in the kernel, after a flush or a
// reload of firewalld.
func missingRules(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		var lacking []string
		if h.lacksMasquerade(n.Name) {
			lacking = append(lacking, "its masquerade")
		}
		if count := h.lackingPorts(n.Name); count > 0 {
			lacking = append(lacking, "the published ports of "+plural(count, "container"))
		}
		if h.lacksPolicy(n) {
			lacking = append(lacking, "its policy")
		}
		if len(lacking) > 0 {
			all = append(all, Finding{
				Severity: Fault, Subject: "network " + n.Name,
				Text:    "rules are missing in the kernel: " + strings.Join(lacking, ", "),
				Command: "trestle restore", fix: restoreFix,
			})
		}
	}
	return all
}

func (h *Host) lacksMasquerade(network string) bool {
	needs := func(a inventory.Attachment) bool { return a.Masquerade == "nftables" }
	if !slices.ContainsFunc(h.alive(network), needs) {
		return false
	}
	return !h.commented("inet trestle", "postrouting", cni.NetworkLabel(network))
}

// commented says whether a rule of the table's chain has the comment.
func (h *Host) commented(table, chain, comment string) bool {
	for _, base := range h.rules.Bases {
		if base.Table != table || base.Chain != chain {
			continue
		}
		found, err := base.Rules(chain)
		has := func(r rules.Rule) bool { return strings.HasSuffix(r.Text, fmt.Sprintf("comment %q", comment)) }
		if err != nil || slices.ContainsFunc(found, has) {
			return true
		}
	}
	return false
}

func (h *Host) lackingPorts(network string) int {
	owners := map[string]bool{}
	for _, e := range h.Elements {
		if strings.Contains(e.Set, "_ports") {
			owners[e.Owner] = true
		}
	}
	count := 0
	for _, a := range h.alive(network) {
		needs := func(p inventory.Port) bool { return p.Backend == "nftables" }
		if slices.ContainsFunc(a.Ports, needs) && !owners[a.Label()] {
			count++
		}
	}
	return count
}

// lacksPolicy says whether the bridge has no element of the policy. Networks that share a
// bridge share its elements, which name one of them.
func (h *Host) lacksPolicy(n inventory.Network) bool {
	if n.IngressPolicy == "" || n.IngressPolicy == "open" || len(h.alive(n.Name)) == 0 {
		return false
	}
	for _, e := range h.Elements {
		for _, other := range h.Networks {
			if other.Bridge == n.Bridge && e.Owner == cni.NetworkLabel(other.Name) {
				return false
			}
		}
	}
	return true
}
