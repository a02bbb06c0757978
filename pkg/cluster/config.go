package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Backend is how hosts reach each other's subnets.
type Backend string

// The backends. Auto goes directly where both hosts are on one link, and by VXLAN
// elsewhere.
const (
	Auto      Backend = "auto"
	HostGW    Backend = "host-gw"
	VXLAN     Backend = "vxlan"
	WireGuard Backend = "wireguard"
)

// What a configuration has that does not say otherwise. The port is neither the
// kernel's (8472) nor IANA's (4789): those are others', flannel's and Docker's among them.
const (
	defaultVNI        = 7243
	defaultPort       = 8473
	defaultSubnetLen4 = 24
	defaultSubnetLen6 = 64
)

// Config is what all hosts of a cluster agree on: one document, which its
// administrator writes.
type Config struct {
	// ID is random and made once: another one is another cluster, though the store be
	// the same.
	ID       string    `json:"id"`
	Networks []Network `json:"networks"`
	// Backend, VNI and Port are of the hosts' links: one device serves all networks. Port
	// is UDP's, of VXLAN or WireGuard.
	Backend Backend `json:"backend,omitempty"`
	VNI     int     `json:"vni,omitempty"`
	Port    int     `json:"port,omitempty"`
	// MTU is for containers; 0 takes what the smallest uplink leaves.
	MTU int `json:"mtu,omitempty"`
	// NoTxChecksum switches the checksum offload of the VXLAN device off, for kernels
	// and network cards that get it wrong.
	NoTxChecksum bool `json:"vxlanNoTxChecksum,omitempty"`
	// MinAgent is the least version of agents that may publish and claim, like 2.1.0. An
	// older one keeps what it has.
	MinAgent string `json:"minAgent,omitempty"`

	extra extra
}

// Network is a network that each host has a subnet of, in one family or both.
type Network struct {
	Name string `json:"name"`
	IPv4 *Pool  `json:"ipv4,omitempty"`
	IPv6 *Pool  `json:"ipv6,omitempty"`
}

// Pools are the network's, IPv4 first.
func (n Network) Pools() []Pool {
	var pools []Pool
	for _, p := range []*Pool{n.IPv4, n.IPv6} {
		if p != nil {
			pools = append(pools, *p)
		}
	}
	return pools
}

// Pools are those of all networks.
func (c Config) Pools() []netip.Prefix {
	var all []netip.Prefix
	for _, n := range c.Networks {
		for _, p := range n.Pools() {
			all = append(all, p.Prefix)
		}
	}
	return all
}

// Network is the one of this name.
func (c Config) Network(name string) (Network, bool) {
	i := slices.IndexFunc(c.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return Network{}, false
	}
	return c.Networks[i], true
}

// ParseConfig reads the document, fills in what it leaves out, and refuses what
// cannot be.
func ParseConfig(data []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("config: %w", err)
	}
	c.fill()
	return c, c.check()
}

func (c *Config) fill() {
	if c.Backend == "" {
		c.Backend = VXLAN
	}
	if c.VNI == 0 {
		c.VNI = defaultVNI
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	for i := range c.Networks {
		n := &c.Networks[i]
		n.IPv4, n.IPv6 = n.IPv4.filled(defaultSubnetLen4), n.IPv6.filled(defaultSubnetLen6)
	}
}

// nameOfNetwork leaves room for a prefix in the name of a bridge, which has 15 characters.
var nameOfNetwork = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,11}$`)

func (c Config) check() error {
	switch c.Backend {
	case Auto, HostGW, VXLAN, WireGuard:
	default:
		return fmt.Errorf(`config: backend: %q is none of "auto", "host-gw", "vxlan" and "wireguard"`, c.Backend)
	}
	if c.VNI < 1 || c.VNI > 1<<24-1 {
		return fmt.Errorf("config: vni: %d is not between 1 and %d", c.VNI, 1<<24-1)
	}
	if c.Port < 1 || c.Port > 65535 {
		return fmt.Errorf("config: port: %d is not between 1 and 65535", c.Port)
	}
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		return fmt.Errorf("config: mtu: %d is not between 1280, the least that IPv6 takes, and 65535", c.MTU)
	}
	if _, err := parseRelease(c.MinAgent); c.MinAgent != "" && (err != nil || strings.ContainsAny(c.MinAgent, "-+")) {
		return fmt.Errorf("config: minAgent: %q is no release; write it like 2.1.0", c.MinAgent)
	}
	if len(c.Networks) == 0 {
		return errors.New(`config: networks: there is none; name one with a pool, like {"name": "pods", "ipv4": {"pool": "10.40.0.0/16", "subnetLen": 24}}`)
	}
	return c.checkNetworks()
}

func (c Config) checkNetworks() error {
	names := map[string]bool{}
	var before []namedPool
	for _, n := range c.Networks {
		if !nameOfNetwork.MatchString(n.Name) {
			return fmt.Errorf("config: network %q: a name has 1 to 12 lower case letters, digits and dashes", n.Name)
		}
		if names[n.Name] {
			return fmt.Errorf("config: network %s is there twice", n.Name)
		}
		names[n.Name] = true
		if n.IPv4 == nil && n.IPv6 == nil {
			return fmt.Errorf("config: network %s: no pool; it needs ipv4 or ipv6, or both", n.Name)
		}
		for _, p := range n.named() {
			if err := p.check(before); err != nil {
				return fmt.Errorf("config: %s: %w", p.what(), err)
			}
			before = append(before, p)
		}
	}
	return nil
}

// namedPool is a pool and where it stands.
type namedPool struct {
	network string
	family  Family
	pool    Pool
}

func (n Network) named() (pools []namedPool) {
	if n.IPv4 != nil {
		pools = append(pools, namedPool{n.Name, IPv4, *n.IPv4})
	}
	if n.IPv6 != nil {
		pools = append(pools, namedPool{n.Name, IPv6, *n.IPv6})
	}
	return pools
}

func (p namedPool) what() string { return fmt.Sprintf("network %s: %s", p.network, p.family) }

func (p namedPool) check(before []namedPool) error {
	if err := p.pool.check(p.family); err != nil {
		return err
	}
	for _, b := range before {
		if b.pool.Prefix.Overlaps(p.pool.Prefix) {
			return fmt.Errorf("pool %s overlaps %s of %s; choose another", p.pool.Prefix, b.pool.Prefix, b.what())
		}
	}
	return nil
}

// CheckChange refuses a new document that would take subnets away from hosts that
// have them.
func (c Config) CheckChange(owned []Owned) error {
	var lost []string
	for _, o := range owned {
		n, ok := c.Network(o.Network)
		fits := ok && slices.ContainsFunc(n.Pools(), func(p Pool) bool { return p.has(o.Subnet) })
		if !fits {
			lost = append(lost, o.Network+" "+o.Subnet.String())
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("config: hosts have subnets that the new document has no place for: %s; let them leave first (trestle node leave)", strings.Join(lost, ", "))
	}
	return nil
}

// MarshalJSON keeps what a newer release has written.
func (c Config) MarshalJSON() ([]byte, error) {
	type plain Config
	return c.extra.marshal(plain(c))
}

// UnmarshalJSON keeps what it does not know.
func (c *Config) UnmarshalJSON(data []byte) error {
	type plain Config
	var p plain
	e, err := unmarshalKeeping(data, &p)
	if err != nil {
		return err
	}
	*c = Config(p)
	c.extra = e
	return nil
}
