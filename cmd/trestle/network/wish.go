package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Wish is what somebody wants of a new network, in the words of network create's flags.
type Wish struct {
	Name         string
	Driver       string
	Subnets      []string
	Gateways     []string
	IPRanges     []string
	Exclude      []string
	IPv6         bool
	Bridge       string
	MTU          int
	Internal     bool
	Isolate      bool
	Ingress      string
	NoMasquerade bool
	Labels       []string
}

// Plan is a network that is sound by itself. Place makes it fit the host.
type Plan struct {
	Name   string
	Bridge string
	Pools  []PlannedPool
	// Exclude are addresses and prefixes that no container gets.
	Exclude      []string
	MTU          int
	Internal     bool
	Isolate      bool
	Ingress      string
	NoMasquerade bool
	Labels       map[string]string

	chooseIPv4, chooseIPv6 bool
}

// PlannedPool is a subnet. Gateway is invalid where the first address is to be it; Range
// is the part that is leased, invalid for all of it.
type PlannedPool struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	Range   netip.Prefix
}

// The policies for what comes from outside of the bridge, in the firewall plugin's words.
const (
	Published  = "published"
	SameBridge = "same-bridge"
	Isolated   = "isolated"
	Open       = "open"
)

// Policies are those of --ingress.
func Policies() []string { return []string{Published, SameBridge, Isolated, Open} }

// reserved are names that trestle run's --net has for something else.
var reserved = []string{"bridge", "default", "host", "none", "container"}

// maxName keeps a network's name below what a file may be called, with what goes before
// and after it (NAME_MAX).
const maxName = 128

var nameShape = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) // CNI spec, "Network configuration format"

// checkName says what is wrong with the name of a network.
func checkName(name string) error {
	switch {
	case name == "":
		return cni.ConfigErrorf("name: empty; give the network a name")
	case len(name) > maxName:
		return cni.ConfigErrorf("name: %q has %d characters; use %d at most", name, len(name), maxName)
	case !nameShape.MatchString(name):
		return cni.ConfigErrorf("name: %q is no network's name; use letters, digits, and after the first of these also _ . -", name)
	case slices.Contains(reserved, name):
		return cni.ConfigErrorf("name: %q means something else to trestle run --net; choose another", name)
	}
	return nil
}

// Plan checks what can be checked without looking at the host. Errors name the flag.
func (w Wish) Plan() (Plan, error) {
	p := Plan{
		Name: w.Name, Bridge: w.Bridge, Exclude: w.Exclude, MTU: w.MTU, Internal: w.Internal, Isolate: w.Isolate, Ingress: w.Ingress,
		NoMasquerade: w.NoMasquerade, chooseIPv4: len(w.Subnets) == 0,
	}
	if p.Bridge == "" {
		p.Bridge = bridgeName(w.Name)
	}
	for _, check := range []func() error{
		func() error { return checkName(w.Name) },
		w.checkChoices,
		func() error { return cni.ConfigError("--bridge", cni.CheckIfName(p.Bridge)) },
		func() (err error) { p.Labels, err = parseLabels(w.Labels); return err },
		func() error { return p.readSubnets(w) },
		func() error { return p.readGateways(w.Gateways) },
		func() error { return p.readRanges(w.IPRanges) },
		p.checkExclude,
	} {
		if err := check(); err != nil {
			return Plan{}, err
		}
	}
	return p, nil
}

func (w Wish) checkChoices() error {
	switch {
	case w.Driver != "bridge":
		return cni.ConfigErrorf("--driver: %q is not to be had; leave it out, or say bridge", w.Driver)
	case !slices.Contains(Policies(), w.Ingress):
		return cni.ConfigErrorf("--ingress: %q is no policy; use %s", w.Ingress, strings.Join(Policies(), ", "))
	case w.MTU != 0 && w.MTU < cni.MinMTUIPv6 && w.IPv6:
		return cni.ConfigErrorf("--mtu: %d is too small for --ipv6; IPv6 needs 1280 (RFC 8200)", w.MTU)
	}
	return cni.ConfigError("--mtu", cni.CheckMTU(w.MTU))
}

// bridgeName is for people to recognize; that of a long name is a hash.
func bridgeName(network string) string {
	const prefix, room = "br-", 12 // IFNAMSIZ less the prefix and the final NUL
	if len(network) <= room {
		return prefix + network
	}
	sum := sha256.Sum256([]byte(network))
	return prefix + hex.EncodeToString(sum[:])[:room]
}

func parseLabels(texts []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, cni.ConfigErrorf("--label: %q has no key and value; write it as key=value", text)
		}
		labels[key] = value
	}
	return labels, nil
}

func parsePrefix(flag, text, like string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, cni.ConfigErrorf("%s: %q is no subnet; write it like %s", flag, text, like)
	}
	if p.Masked() != p {
		return p, cni.ConfigErrorf("%s: %s has bits beyond its length; the subnet is %s", flag, p, p.Masked())
	}
	if p.Addr().Is4In6() {
		return p, cni.ConfigErrorf("%s: %s is IPv4 written as IPv6; write it like %s", flag, p, like)
	}
	return p, nil
}

func (p *Plan) readSubnets(w Wish) error {
	p.chooseIPv6 = w.IPv6
	for _, text := range w.Subnets {
		subnet, err := parsePrefix("--subnet", text, "10.24.0.0/22 or fd00:1:2:3::/64")
		if err != nil {
			return err
		}
		switch a := subnet.Addr(); {
		case a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || subnet.Bits() == 0:
			return cni.ConfigErrorf("--subnet: %s is not for hosts; use one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8", subnet)
		case a.BitLen()-subnet.Bits() < 2:
			return cni.ConfigErrorf("--subnet: %s has no room for a gateway and a container; use a /%d or larger", subnet, a.BitLen()-2)
		case a.Is6() && w.MTU != 0 && w.MTU < cni.MinMTUIPv6:
			return cni.ConfigErrorf("--mtu: %d is too small for %s; IPv6 needs 1280 (RFC 8200)", w.MTU, subnet)
		}
		for _, other := range p.Pools {
			if other.Subnet.Overlaps(subnet) {
				return cni.ConfigErrorf("--subnet: %s overlaps with %s, which is given too; they must be apart", subnet, other.Subnet)
			}
		}
		p.Pools = append(p.Pools, PlannedPool{Subnet: subnet})
		p.chooseIPv6 = p.chooseIPv6 && subnet.Addr().Is4()
	}
	return nil
}

// pool is the one whose subnet holds the prefix.
func (p *Plan) pool(prefix netip.Prefix) *PlannedPool {
	for i := range p.Pools {
		if s := p.Pools[i].Subnet; s.Contains(prefix.Addr()) && s.Bits() <= prefix.Bits() {
			return &p.Pools[i]
		}
	}
	return nil
}

// subnets lists the given subnets, for messages.
func (p *Plan) subnets() string {
	var all []string
	for _, pool := range p.Pools {
		all = append(all, pool.Subnet.String())
	}
	if len(all) == 0 {
		return "none, so give --subnet as well"
	}
	return strings.Join(all, ", ")
}

func (p *Plan) readGateways(texts []string) error {
	for _, text := range texts {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return cni.ConfigErrorf("--gateway: %q is no address", text)
		}
		pool := p.pool(netip.PrefixFrom(address, address.BitLen()))
		switch {
		case pool == nil:
			return cni.ConfigErrorf("--gateway: %s is in no subnet of this network (%s)", address, p.subnets())
		case pool.Gateway.IsValid():
			return cni.ConfigErrorf("--gateway: %s and %s are both in %s; a subnet has one gateway", pool.Gateway, address, pool.Subnet)
		case address == pool.Subnet.Addr():
			return cni.ConfigErrorf("--gateway: %s is the address of the subnet itself; use %s", address, address.Next())
		}
		pool.Gateway = address
	}
	return nil
}

func (p *Plan) readRanges(texts []string) error {
	for _, text := range texts {
		span, err := parsePrefix("--ip-range", text, "10.24.0.128/25")
		if err != nil {
			return err
		}
		pool := p.pool(span)
		switch {
		case pool == nil:
			return cni.ConfigErrorf("--ip-range: %s is in no subnet of this network (%s)", span, p.subnets())
		case pool.Range.IsValid():
			return cni.ConfigErrorf("--ip-range: %s and %s are both in %s; a subnet has one range", pool.Range, span, pool.Subnet)
		}
		pool.Range = span
	}
	return nil
}

func (p *Plan) checkExclude() error {
	for _, text := range p.Exclude {
		span, err := netip.ParsePrefix(text)
		if address, addrErr := netip.ParseAddr(text); addrErr == nil && address.Zone() == "" {
			span, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return cni.ConfigErrorf("--exclude: %q is neither an address nor a prefix like 10.24.0.0/28", text)
		}
		if p.pool(span) == nil {
			return cni.ConfigErrorf("--exclude: %s is in no subnet of this network (%s)", text, p.subnets())
		}
	}
	return nil
}

func (p PlannedPool) String() string { return fmt.Sprint(p.Subnet) }
