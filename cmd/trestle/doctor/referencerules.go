package doctor

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/rules"
)

// referenceRule is a rule of the reference plugins that names its container.
type referenceRule struct {
	Base        rules.Base
	Chain, Text string
	Jump        string // the chain of its container
	Container   string
}

// referenceChains are the chains with such rules, by the base chain that leads to them
// (containernetworking/plugins: pkg/ip/ipmasq_iptables_linux.go,
// pkg/ip/ipmasq_nftables_linux.go, plugins/meta/portmap).
var referenceChains = map[string][]string{
	"POSTROUTING": {"POSTROUTING"},
	"PREROUTING":  {"CNI-HOSTPORT-DNAT"},
	"masq_checks": {"masq_checks"},
	"prerouting":  {"hostports", "hostip_hostports"},
	"postrouting": {"masq_checks"},
}

// The comments of the reference plugins: in iptables, and in the two tables of nftables.
var (
	inIPTables = regexp.MustCompile(`name: \\"[^"]*\\" id: \\"([^"\\]+)\\"`)
	inMasq     = regexp.MustCompile(`net: .*, if: .*, id: ([^"]+)"`)
	inHostPort = regexp.MustCompile(`comment "([^"]+)"$`)
)

func readReferenceRules(all rules.Host) ([]referenceRule, error) {
	var found []referenceRule
	var failed []error
	for _, base := range all.Bases {
		if !base.NAT || base.Ours {
			continue
		}
		pattern := inIPTables
		switch {
		case strings.HasSuffix(base.Table, "cni_plugins_masquerade"):
			pattern = inMasq
		case strings.HasSuffix(base.Table, "cni_hostport"):
			pattern = inHostPort
		case base.Program == "nft":
			continue
		}
		for _, chain := range referenceChains[base.Chain] {
			if !leadsTo(base, chain) {
				continue
			}
			list, err := base.Rules(chain)
			failed = append(failed, err)
			for _, r := range list {
				if names := pattern.FindStringSubmatch(r.Text); names != nil {
					found = append(found, referenceRule{base, chain, r.Text, r.Jump, names[1]})
				}
			}
		}
	}
	return found, errors.Join(failed...)
}

// leadsTo says whether the base chain is the chain, or jumps to it; otherwise the chain may not
// exist.
func leadsTo(base rules.Base, chain string) bool {
	list, err := base.Rules(base.Chain)
	return chain == base.Chain || err == nil && slices.ContainsFunc(list, func(r rules.Rule) bool { return r.Jump == chain })
}

// referenceRules finds rules whose container is not attached any more: they masquerade or map
// an address that another container may have by now.
func referenceRules(h *Host) []Finding {
	known := map[string]bool{}
	for _, a := range h.Attachments {
		known[a.Container] = true
	}
	var all []Finding
	for _, r := range h.referenceRules {
		if known[r.Container] || h.beginsKnown(r.Container) {
			continue
		}
		all = append(all, Finding{
			Severity: Warning, Subject: "container " + r.Container,
			Text:    fmt.Sprintf("a rule of the reference plugins names it, and it is attached to nothing: %q in chain %s of table %s (%s)", r.Text, r.Chain, r.Base.Table, r.Base.Program),
			Command: r.removal(),
		})
	}
	return all
}

// beginsKnown says whether the id of an attached container begins with id: comments cut long ids
// off.
func (h *Host) beginsKnown(id string) bool {
	const short = 30
	return len(id) >= short && len(h.Of(id)) > 0
}

func (r referenceRule) removal() string {
	command := remove(r.Base, rules.Step{Chain: r.Chain, Rule: r.Text})
	if r.Base.Program == "nft" || r.Jump == "" {
		return command
	}
	return fmt.Sprintf("%s; %s -t nat -F %s; %s -t nat -X %s", command, r.Base.Program, r.Jump, r.Base.Program, r.Jump)
}
