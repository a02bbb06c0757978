// Package firewall knows the policies for a container's traffic, and the accept rules that
// let it through the host's firewall.
//
// A caller makes of Config and result the Rules that are wanted (Host.Plan) and hands
// them to Host.Add, which records them, and lets each place have its part: nftables,
// each program of iptables, a zone of firewalld (backend). What containers have in
// common goes with its last one. Host.Release needs the owner alone, if there is a
// record. Start at Rules and Host.Add.
//
// To debug: nft list table inet trestle and bridge trestle, chain forward; iptables -S
// CNI-FORWARD; records are in /run/trestle/firewall, and who shares what in
// /run/trestle/firewall.shared.
package firewall

import (
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Config is a network's configuration, found sound.
type Config struct {
	Backend    backendName
	Policy     policy
	Internal   bool   // nothing is forwarded to the bridge, nor from it
	AdminChain string // of iptables, looked at before our rules
	// AdminChosen says that the configuration names the chain: then there are
	// rules of iptables for it to come before.
	AdminChosen bool
	Zone        string // of firewalld
}

// backendName is where the accept rules for a container's packets are made.
type backendName string

// The backends. backendAuto is firewalld where it runs, and every table "filter" of
// iptables, which is made where there is none: its chain FORWARD may begin to drop later.
const (
	backendAuto      backendName = ""
	backendIPTables  backendName = "iptables"
	backendFirewalld backendName = "firewalld"
	backendNFTables  backendName = "nftables" // no accept rules
)

// policy says who reaches a container. This host does, whatever the policy. Unless
// that is policyPublished, so do other hosts, as routes and port mappings let them.
type policy string

// The policies. Each names what is let in.
const (
	policyOpen       policy = "open"        // all
	policySameBridge policy = "same-bridge" // from the same bridge, not from another with a policy
	policyIsolated   policy = "isolated"    // from outside; from no container of this bridge, or of another with a policy
	// policyPublished lets in from the same bridge, and from anywhere what comes by a port
	// mapping or answers the container.
	policyPublished policy = "published"
)

// wire is the configuration as it is written.
type wire struct {
	Backend       backendName `json:"backend"`
	AdminChain    string      `json:"iptablesAdminChainName"`
	Zone          string      `json:"firewalldZone"`
	IngressPolicy policy      `json:"ingressPolicy"`
	Internal      bool        `json:"internal"`
}

const (
	defaultAdminChain = "CNI-ADMIN"
	defaultZone       = "trusted"
)

// ParseConfig reads the keys of the firewall plugin. Errors have code 6 or 7.
func ParseConfig(r *cni.Request) (Config, error) {
	var w wire
	if err := r.Decode(&w); err != nil {
		return Config{}, err
	}
	c := Config{
		Backend: w.Backend, Policy: w.IngressPolicy, Internal: w.Internal,
		AdminChain: w.AdminChain, AdminChosen: w.AdminChain != "", Zone: w.Zone,
	}
	if c.Policy == "" {
		c.Policy = policyOpen
	}
	if c.AdminChain == "" {
		c.AdminChain = defaultAdminChain
	}
	if c.Zone == "" {
		c.Zone = defaultZone
	}
	return c, c.check()
}

func (c Config) check() error {
	switch c.Backend {
	case backendAuto, backendIPTables, backendFirewalld, backendNFTables:
	default:
		return cni.ConfigErrorf("backend: unknown %q; use %q, %q, %q, or leave it out", c.Backend, backendIPTables, backendFirewalld, backendNFTables)
	}
	switch c.Policy {
	case policyOpen, policySameBridge, policyIsolated, policyPublished:
	default:
		return cni.ConfigErrorf("ingressPolicy: unknown %q; use %q, %q, %q or %q", c.Policy, policyOpen, policySameBridge, policyIsolated, policyPublished)
	}
	// 28 bytes are the longest name of a chain (XT_EXTENSION_MAXNAMELEN, linux/netfilter/x_tables.h)
	if len(c.AdminChain) > 28 || !isWord(c.AdminChain) || c.AdminChain == forwardChain || c.AdminChain == ourChain {
		return cni.ConfigErrorf("iptablesAdminChainName: %q is not the name of a chain of its own; use at most 28 letters, digits, '_' or '-', a letter first", c.AdminChain)
	}
	if !isWord(c.Zone) {
		return cni.ConfigErrorf("firewalldZone: %q is not the name of a zone; use letters, digits, '_' or '-', a letter first", c.Zone)
	}
	return nil
}

// isWord says whether s can stand on a command line, and in a path.
func isWord(s string) bool {
	isLetter := func(c rune) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
	good := func(c rune) bool { return isLetter(c) || '0' <= c && c <= '9' || c == '_' || c == '-' }
	return s != "" && isLetter(rune(s[0])) && !strings.ContainsFunc(s, func(c rune) bool { return !good(c) })
}
