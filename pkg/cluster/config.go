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

// The backends. Auto is host-gw between hosts on one link, and VXLAN between others.
const (
	Auto      Backend = "auto"
	HostGW    Backend = "host-gw"
	VXLAN     Backend = "vxlan"
	WireGuard Backend = "wireguard"
)

// The defaults of a configuration. The port is neither the kernel's (8472) nor IANA's (4789),
// which others use, flannel and Docker among them.
const (
	defaultVNI        = 7243
	defaultPort       = 8473
	defaultSubnetLen4 = 24
	defaultSubnetLen6 = 64
)

// Config is the cluster's configuration: one document, written by the administrator, that all
// hosts follow.
type Config struct {
	// ID is random and made once. A configuration with another id is another cluster's, even
	// in the same store.
	ID       string    `json:"id"`
	Networks []Network `json:"networks"`
	// Backend, VNI and Port are the same for all networks, since one device on each host
	// serves them all. Port is the UDP port of VXLAN or WireGuard.
	Backend Backend `json:"backend,omitempty"`
	VNI     int     `json:"vni,omitempty"`
	Port    int     `json:"port,omitempty"`
	// MTU is for containers; 0 takes what the smallest uplink leaves.
	MTU int `json:"mtu,omitempty"`
	// NoTxChecksum switches the checksum offload of the VXLAN device off, for kernels
	// and network cards that get it wrong.
	NoTxChecksum bool `json:"vxlanNoTxChecksum,omitempty"`
	// MinAgent is the oldest version of agents that may publish and claim, like 2.1.0. An
	// older agent keeps the subnets that it has.
	MinAgent string `json:"minAgent,omitempty"`

	extra extra
}

// Network is a network of which each host has a subnet, in one family or both.
type Network struct {
	Name string `json:"name"`
	IPv4 *Pool  `json:"ipv4,omitempty"`
	IPv6 *Pool  `json:"ipv6,omitempty"`
	// CNIVersion is the version of the list that hosts write for the runtime; "" is the
	// default. Plugins are keys for the entries of that list, by the plugin's type; a plugin
	// that the list lacks is added.
	CNIVersion string          `json:"cniVersion,omitempty"`
	Plugins    map[string]Keys `json:"plugins,omitempty"`

	extra extra
}

// Pools are the network's pools, IPv4 first.
func (n Network) Pools() []Pool {
	var pools []Pool
	for _, p := range []*Pool{n.IPv4, n.IPv6} {
		if p != nil {
			pools = append(pools, *p)
		}
	}
	return pools
}

// Pools are the prefixes of all networks' pools.
func (c Config) Pools() []netip.Prefix {
	var all []netip.Prefix
	for _, n := range c.Networks {
		for _, p := range n.Pools() {
			all = append(all, p.Prefix)
		}
	}
	return all
}

// Network is the network with this name.
func (c Config) Network(name string) (Network, bool) {
	i := slices.IndexFunc(c.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return Network{}, false
	}
	return c.Networks[i], true
}

// ParseConfig reads the document, fills in the defaults, and checks it.
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

// nameOfNetwork leaves room for a prefix in the bridge's name, which has at most 15 characters.
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
		if err := n.checkList(); err != nil {
			return fmt.Errorf("config: network %s: %w", n.Name, err)
		}
	}
	return nil
}

// namedPool is a pool with its network and family, for messages.
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

// Outside lists those of the subnets that are in no pool of their network, or not of its
// length, each with the network's name.
func (c Config) Outside(owned []Owned) []string {
	var outside []string
	for _, o := range owned {
		n, ok := c.Network(o.Network)
		fits := ok && slices.ContainsFunc(n.Pools(), func(p Pool) bool { return p.has(o.Subnet) })
		if !fits {
			outside = append(outside, o.Network+" "+o.Subnet.String())
		}
	}
	return outside
}

// checkChange refuses a configuration in whose pools the hosts' subnets are not.
func (c Config) checkChange(owned []Owned) error {
	if outside := c.Outside(owned); len(outside) > 0 {
		return fmt.Errorf("config: hosts have subnets that are in no pool of the new configuration: %s; let them leave first (trestle node leave)", strings.Join(outside, ", "))
	}
	return nil
}

// MarshalJSON writes keys of newer releases as they were read.
func (c Config) MarshalJSON() ([]byte, error) {
	type plain Config
	return c.extra.marshal(plain(c))
}

// UnmarshalJSON keeps the keys that this release does not know.
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

// MarshalJSON writes keys of newer releases as they were read.
func (n Network) MarshalJSON() ([]byte, error) {
	type plain Network
	return n.extra.marshal(plain(n))
}

// UnmarshalJSON keeps the keys that this release does not know.
func (n *Network) UnmarshalJSON(data []byte) error {
	type plain Network
	var p plain
	e, err := unmarshalKeeping(data, &p)
	if err != nil {
		return fmt.Errorf("networks: %w", err)
	}
	*n = Network(p)
	n.extra = e
	return nil
}
