package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// Taken is a prefix that is in use on the host, and by what.
type Taken struct {
	Prefix netip.Prefix
	Holder string // "route by tun0", "network trestle"
	// Maybe says that the holder may use it one day: it is not chosen while another is free,
	// but can be asked for.
	Maybe bool
}

// choices are the prefixes from which subnets are chosen, in this order. Neither Docker, podman,
// Kubernetes nor the lists that come with Trestle use the first by default; the others are for
// hosts with a route to all of 10.0.0.0/8.
var choices = []netip.Prefix{
	netip.MustParsePrefix("10.24.0.0/13"), netip.MustParsePrefix("172.24.0.0/14"), netip.MustParsePrefix("192.168.128.0/17"),
}

// choiceBits is the length of a chosen subnet. It has an address for nearly each port of a
// bridge: 1,021 for 1,023.
const choiceBits = 22

// Place completes the plan for this host: it chooses the subnets that were not given, and
// refuses those that overlap with a prefix in use. Prefixes that are Maybe in use do not count
// against subnets that were given.
func (p *Plan) Place(taken []Taken) error {
	for _, pool := range p.Pools {
		for _, t := range taken {
			if !t.Maybe && t.Prefix.Overlaps(pool.Subnet) {
				return cni.ConfigErrorf("--subnet: %s overlaps with %s, %s; choose another, or leave it out for a free one", pool.Subnet, t.Prefix, t.Holder)
			}
		}
	}
	if p.chooseIPv4 {
		subnet, ok := freeIPv4(taken)
		if !ok {
			return cni.ConfigErrorf("--subnet: no /%d of %v is free; name one", choiceBits, choices)
		}
		p.Pools = append([]PlannedPool{{Subnet: subnet}}, p.Pools...)
	}
	if p.chooseIPv6 {
		p.Pools = append(p.Pools, PlannedPool{Subnet: freeIPv6(taken)})
	}
	return nil
}

// freeIPv4 chooses a free subnet, and one that is Maybe in use only if no other is left.
func freeIPv4(taken []Taken) (netip.Prefix, bool) {
	used := slices.DeleteFunc(slices.Clone(taken), func(t Taken) bool { return t.Maybe })
	for _, taken := range [][]Taken{taken, used} {
		for _, from := range choices {
			if subnet, ok := free(from, choiceBits, taken); ok {
				return subnet, true
			}
		}
	}
	return netip.Prefix{}, false
}

// free is the first subnet with this prefix length in from that overlaps nothing taken.
func free(from netip.Prefix, bits int, taken []Taken) (netip.Prefix, bool) {
	for subnet := netip.PrefixFrom(from.Addr(), bits); from.Contains(subnet.Addr()); subnet = next(subnet) {
		if holder(subnet, taken) < 0 {
			return subnet, true
		}
	}
	return netip.Prefix{}, false
}

func holder(subnet netip.Prefix, taken []Taken) int {
	for i, t := range taken {
		if t.Prefix.Overlaps(subnet) {
			return i
		}
	}
	return -1
}

// next is the IPv4 subnet of the same length behind this one.
func next(p netip.Prefix) netip.Prefix {
	b := p.Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += 1 << (32 - p.Bits())
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), p.Bits())
}

// freeIPv6 is a random unique local /64 (RFC 4193), so that hosts choose different ones.
func freeIPv6(taken []Taken) netip.Prefix {
	for {
		var b [16]byte
		_, _ = rand.Read(b[1:6]) // never fails (crypto/rand)
		b[0] = 0xfd
		subnet := netip.PrefixFrom(netip.AddrFrom16(b), 64)
		if holder(subnet, taken) < 0 {
			return subnet
		}
	}
}

// DockerPools are the prefixes from which Docker's networks get subnets: those in its
// configuration (daemon.json, "bip" and "default-address-pools") or, if that has no pools, its
// defaults. They count even if Docker is not installed, since it may be later.
func DockerPools(daemon string) ([]Taken, error) {
	var config struct {
		BIP   string `json:"bip"`
		Pools []struct {
			Base netip.Prefix `json:"base"`
		} `json:"default-address-pools"`
	}
	data, err := rawfile.Read(daemon)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read Docker's configuration: %w", err)
	}
	if err == nil {
		if err := cni.Unmarshal(data, &config); err != nil {
			return nil, fmt.Errorf("%s: %w", daemon, err)
		}
	}
	var pools []Taken
	if bip, err := netip.ParsePrefix(config.BIP); err == nil {
		pools = append(pools, Taken{bip.Masked(), "Docker's bridge in " + daemon, false})
	}
	for _, pool := range config.Pools {
		pools = append(pools, Taken{pool.Base.Masked(), "Docker's pool in " + daemon, false})
	}
	if len(config.Pools) == 0 {
		for _, text := range []string{"172.16.0.0/12", "192.168.0.0/16"} {
			pools = append(pools, Taken{netip.MustParsePrefix(text), "Docker's pool", true})
		}
	}
	return pools, nil
}
