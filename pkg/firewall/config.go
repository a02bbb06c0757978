// Package firewall enforces the network's policy, that is, who may reach a container, and
// lets the container's packets through other firewalls of the host.
//
// A caller makes Rules of Config and result (Host.Plan) and hands them to Host.Add, which
// records them and makes their entries in each place: nftables, tables of iptables, a zone
// of firewalld (see backend). An entry that several containers need is removed with the last
// of them. Host.Release needs only the owner, if there is a record. Start at Rules and
// Host.Add.
//
// To debug: nft list table inet trestle and bridge trestle, chain forward; iptables -S
// CNI-FORWARD; records are in /run/trestle/firewall, and those who share an entry in
// /run/trestle/firewall.shared.
package firewall

import (
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Config is a network's configuration, validated.
type Config struct {
	Backend    backendName
	Policy     policy
	Internal   bool   // nothing is forwarded to the bridge or from it
	AdminChain string // a chain of iptables, which ours jumps to before its rules
	// AdminChosen says that the configuration names the chain, so that the rules of iptables
	// must be made for it to take effect.
	AdminChosen bool
	Zone        string // of firewalld
}

// backendName is where the accept rules for a container's packets are made.
type backendName string

// The backends. backendAuto is firewalld if it runs, and every table "filter" of iptables
// (see whenOf), which is made if it does not exist: its chain FORWARD may begin to drop later.
const (
	backendAuto      backendName = ""
	backendIPTables  backendName = "iptables"
	backendFirewalld backendName = "firewalld"
	backendNFTables  backendName = "nftables" // no accept rules
)

// policy says who reaches a container. This host always does. So do other hosts, as far as
// routes and port mappings lead there, unless the policy is policyPublished.
type policy string

// The policies.
const (
	policyOpen       policy = "open"        // everybody
	policySameBridge policy = "same-bridge" // not containers on another bridge with a policy
	policyIsolated   policy = "isolated"    // no container of this bridge, or of another with a policy
	// policyPublished lets in what comes from the same bridge and, from anywhere, what comes
	// by a port mapping or answers the container.
	policyPublished policy = "published"
)

// wire is the configuration's JSON.
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

// ParseConfig reads the keys of the firewall plugin. Errors have code 6 or 7; the Config
// beside an error of code 7 has what was read.
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

// isWord says whether s can stand in a rule of iptables-restore and in a path.
func isWord(s string) bool {
	isLetter := func(c rune) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
	good := func(c rune) bool { return isLetter(c) || '0' <= c && c <= '9' || c == '_' || c == '-' }
	return s != "" && isLetter(rune(s[0])) && !strings.ContainsFunc(s, func(c rune) bool { return !good(c) })
}
