package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Flannel is a network as flannel has it. Import makes a network of ours with the same pools
// and subnet lengths, in which each host keeps its subnets.
type Flannel struct {
	Network Network
	// Backend is ours that corresponds to flannel's, FlannelBackend; "" where none does.
	Backend        Backend
	FlannelBackend string
	Leases         []FlannelLease
}

// FlannelLease is the subnets of the host with an address. Where names the lease in errors.
type FlannelLease struct {
	Host    netip.Addr
	Subnets []netip.Prefix
	Where   string
}

// flannelConfig is the value of /coreos.com/network/config (flannel, pkg/subnet/config.go).
type flannelConfig struct {
	EnableIPv4    *bool
	EnableIPv6    bool
	Network       netip.Prefix
	IPv6Network   netip.Prefix
	SubnetLen     int
	IPv6SubnetLen int
	Backend       struct {
		Type          string
		DirectRouting bool
	}
}

// ParseFlannel reads flannel's keys from etcd: its configuration, and its leases by their keys
// below "subnets/", like 10.5.34.0-24 or, for both families, 10.5.34.0-24&fd05:0:0:2::-64.
func ParseFlannel(name string, config []byte, leases map[string][]byte) (Flannel, error) {
	var c flannelConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return Flannel{}, fmt.Errorf("flannel's config: %w", err)
	}
	f := Flannel{Network: Network{Name: name}}
	if c.EnableIPv4 == nil || *c.EnableIPv4 {
		f.Network.IPv4 = flannelPool(c.Network, c.SubnetLen, 24)
	}
	if c.EnableIPv6 {
		f.Network.IPv6 = flannelPool(c.IPv6Network, c.IPv6SubnetLen, 64)
	}
	f.FlannelBackend = c.Backend.Type
	f.Backend = backendOfFlannel(c.Backend.Type, c.Backend.DirectRouting)
	for _, key := range slices.Sorted(maps.Keys(leases)) {
		lease, err := parseFlannelLease(key, leases[key])
		if err != nil {
			return Flannel{}, fmt.Errorf("flannel's subnets/%s: %w", key, err)
		}
		f.Leases = append(f.Leases, lease)
	}
	return f, f.check()
}

// flannelPool is a pool with the subnet length that flannel gives it: where the configuration
// has none, the usual one or, if that gave fewer than four subnets, the one that gives four.
func flannelPool(network netip.Prefix, length, usual int) *Pool {
	if length == 0 {
		length = max(usual, network.Bits()+2)
	}
	return &Pool{Prefix: network, SubnetLen: length}
}

// backendOfFlannel is our backend that corresponds to flannel's, or "".
func backendOfFlannel(kind string, directRouting bool) Backend {
	switch {
	case kind == "vxlan" && directRouting:
		return Auto
	case kind == "vxlan":
		return VXLAN
	case kind == "host-gw":
		return HostGW
	case kind == "wireguard":
		return WireGuard
	}
	return ""
}

func parseFlannelLease(key string, value []byte) (FlannelLease, error) {
	var attributes struct{ PublicIP, PublicIPv6 netip.Addr }
	if err := json.Unmarshal(value, &attributes); err != nil {
		return FlannelLease{}, err
	}
	lease := FlannelLease{Host: attributes.PublicIP, Where: "flannel's subnets/" + key}
	if !lease.Host.IsValid() || lease.Host.IsUnspecified() {
		lease.Host = attributes.PublicIPv6
	}
	for part := range strings.SplitSeq(key, "&") {
		subnet, err := parseSubnetKey(part)
		if err != nil {
			return lease, fmt.Errorf("it names no subnet: %w", err)
		}
		if !subnet.Addr().IsUnspecified() { // 0.0.0.0-0 stands for IPv4 where flannel has IPv6 alone
			lease.Subnets = append(lease.Subnets, subnet)
		}
	}
	return lease, nil
}

// ParseSubnetEnv reads /run/flannel/subnet.env, which has the subnets of one host. It does not
// say which backend flannel uses.
func ParseSubnetEnv(name string, data []byte, host netip.Addr) (Flannel, error) {
	const where = "subnet.env"
	f := Flannel{Network: Network{Name: name}, FlannelBackend: "unknown: " + where + " does not tell"}
	lease := FlannelLease{Host: host, Where: where}
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	for _, family := range []struct {
		network, subnet string
		pool            **Pool
	}{
		{"FLANNEL_NETWORK", "FLANNEL_SUBNET", &f.Network.IPv4},
		{"FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET", &f.Network.IPv6},
	} {
		if values[family.network] == "" && values[family.subnet] == "" {
			continue
		}
		network, err := netip.ParsePrefix(values[family.network])
		if err != nil {
			return f, fmt.Errorf("%s: %s: %w", where, family.network, err)
		}
		subnet, err := netip.ParsePrefix(values[family.subnet])
		if err != nil {
			return f, fmt.Errorf("%s: %s: %w", where, family.subnet, err)
		}
		*family.pool = &Pool{Prefix: network, SubnetLen: subnet.Bits()}
		lease.Subnets = append(lease.Subnets, subnet.Masked())
	}
	if len(lease.Subnets) == 0 {
		return f, errors.New(where + ": neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET is there")
	}
	f.Leases = []FlannelLease{lease}
	return f, f.check()
}

// check refuses leases that cannot become claims: overlapping ones, or two of one host.
func (f Flannel) check() error {
	var held []FlannelLease
	for _, l := range f.Leases {
		if !l.Host.IsValid() {
			return fmt.Errorf("%s: no PublicIP, which would say whose lease it is", l.Where)
		}
		for _, h := range held {
			if h.Host == l.Host {
				return fmt.Errorf("%s and %s are both of host %s; delete the one that is not in that host's /run/flannel/subnet.env", h.Where, l.Where, l.Host)
			}
			if slices.ContainsFunc(h.Subnets, func(p netip.Prefix) bool { return slices.ContainsFunc(l.Subnets, p.Overlaps) }) {
				return fmt.Errorf("%s, of host %s, and %s, of host %s, overlap; take the subnet from one of them first", h.Where, h.Host, l.Where, l.Host)
			}
		}
		held = append(held, l)
	}
	return nil
}

// Config is a configuration of ours for flannel's network.
func (f Flannel) Config(id string) (Config, error) {
	c := Config{ID: id, Backend: f.Backend, Networks: []Network{f.Network}}
	c.fill()
	if err := c.check(); err != nil {
		return c, fmt.Errorf("flannel's network: %w", err)
	}
	if f.Backend == "" {
		return c, fmt.Errorf("no backend of Trestle corresponds to flannel's (%s); choose one: --backend vxlan, host-gw, auto or wireguard", cmp.Or(f.FlannelBackend, "udp"))
	}
	if outside := c.Outside(f.owned()); len(outside) > 0 {
		return c, fmt.Errorf("flannel's leases have subnets that are in no pool of its network, or not of its length: %s", strings.Join(outside, ", "))
	}
	return c, nil
}

func (f Flannel) owned() (all []Owned) {
	for _, l := range f.Leases {
		for _, s := range l.Subnets {
			all = append(all, Owned{Network: f.Network.Name, Subnet: s})
		}
	}
	return all
}

// importBatch keeps a transaction below etcd's limit of 128 operations.
const importBatch = 50

// Import reserves flannel's subnets, each for the host with its lease's address, and then
// writes the configuration, without which no host joins. If the store has a configuration, it
// must have the network with flannel's pools. After an error Import can be repeated.
func Import(ctx context.Context, store Store, f Flannel, id string) error {
	config, err := f.Config(id)
	if err != nil {
		return err
	}
	view, err := store.Get(ctx, KeyConfig, PrefixClaims, PrefixNodes)
	if err != nil {
		return err
	}
	value, isThere := view.Keys[KeyConfig]
	if isThere {
		if err := f.fits(value.Data); err != nil {
			return err
		}
	}
	wanted, err := f.reservations(view)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(wanted, importBatch) {
		var txn Txn
		for _, w := range batch {
			txn.absent(w.Key)
			txn.put(w.Key, w.Data)
		}
		if err := commitImport(ctx, store, txn); err != nil {
			return err
		}
	}
	if isThere {
		return nil
	}
	txn, err := firstConfig(config)
	if err != nil {
		return err
	}
	return commitImport(ctx, store, txn)
}

func commitImport(ctx context.Context, store Store, txn Txn) error {
	done, err := store.Commit(ctx, txn)
	if err == nil && !done {
		err = errors.New("somebody else has changed the cluster at the same time; look at it (trestle cluster subnets), and import again")
	}
	return err
}

// fits refuses a configuration that lacks flannel's network, or has it with other pools.
func (f Flannel) fits(data []byte) error {
	config, err := ParseConfig(data)
	if err != nil {
		return err
	}
	have, ok := config.Network(f.Network.Name)
	same := ok && slices.EqualFunc(have.Pools(), f.Network.Pools(), Pool.isSame)
	if !same {
		return fmt.Errorf("the cluster has a configuration already, in which network %s is not flannel's %v but %v; choose another --network, or another --cluster",
			f.Network.Name, f.Network.Pools(), have.Pools())
	}
	return nil
}

// reservations are the claims to be written: one for each leased subnet that has none.
func (f Flannel) reservations(view View) (wanted []Write, err error) {
	claims := readClaims(view)
	nodes := NewListing(view).Nodes
	for _, l := range f.Leases {
		for _, s := range l.Subnets {
			o := Owned{Network: f.Network.Name, Subnet: s}
			c, taken := claims[keyOf(o)]
			switch {
			case taken && (c.For == l.Host || nodes[c.Node].has(l.Host)):
				continue
			case taken && c.Node != "":
				return nil, fmt.Errorf("%s %s is of node %s, and of flannel's host %s; let one of them leave first", o.Network, o.Subnet, c.Node, l.Host)
			case taken || overlapped(claims, o):
				return nil, fmt.Errorf("%s %s is reserved for something else (%s); trestle cluster subnets lists all", o.Network, o.Subnet, c.Reserved)
			}
			data, err := json.Marshal(claim{
				Nonce:    "flannel",
				Reserved: fmt.Sprintf("host %s, which had it of flannel", l.Host),
				For:      l.Host,
			})
			if err != nil {
				return nil, err
			}
			wanted = append(wanted, Write{PrefixClaims + keyOf(o), data})
		}
	}
	return wanted, nil
}
