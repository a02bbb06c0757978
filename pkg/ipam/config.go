package ipam

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Config is the ipam object of a network's configuration, validated. It has all keys of
// host-local, and also "exclude", "lockTimeout" and "statusWhenFull".
type Config struct {
	// Sets are the range sets; an attachment gets one address of each set.
	Sets []Set
	// Requested has, at the index of its set, the address that the runtime requests, or zero.
	Requested []netip.Addr
	Routes    []*types.Route
	// ResolvConf is the file with the container's DNS settings, for ReadResolvConf; empty if
	// there is none.
	ResolvConf string
	// UnavailableWhenFull says that STATUS fails if a set has no free address.
	UnavailableWhenFull bool
}

// DefaultDataDir is the data directory, for us as for host-local, if the configuration names
// none.
const DefaultDataDir = "/var/lib/cni/networks"

const defaultWait = 10 * time.Second

// wireConfig is the configuration's JSON.
type wireConfig struct {
	IPAM *struct {
		wireRange            // the only range of old configurations
		Ranges    wireSets   `json:"ranges"`
		Routes    cni.Routes `json:"routes"`

		ResolvConf  string          `json:"resolvConf"`
		WhenFull    string          `json:"statusWhenFull"`
		DataDir     string          `json:"dataDir"`
		LockTimeout json.RawMessage `json:"lockTimeout"`
	} `json:"ipam"`
	RuntimeConfig struct {
		IPRanges wireSets `json:"ipRanges"`
		IPs      []string `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
}

type wireRange struct {
	Subnet     string   `json:"subnet"`
	RangeStart string   `json:"rangeStart"`
	RangeEnd   string   `json:"rangeEnd"`
	Gateway    string   `json:"gateway"`
	Exclude    []string `json:"exclude"`
}

// wireSets is a list of lists of ranges. A range in place of a list of ranges is accepted,
// too, since some runtimes send a flat list.
type wireSets []wireSet

type wireSet []wireRange

func (s *wireSet) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte("{")) {
		*s = make(wireSet, 1)
		return cni.Unmarshal(data, &(*s)[0])
	}
	return cni.Unmarshal(data, (*[]wireRange)(s))
}

// StoreOf is the store of the request's network. Of the configuration it reads only the two
// keys about the store, so that no mistake in others keeps a DEL from releasing leases.
func StoreOf(r *cni.Request) (*Store, error) {
	var wire struct {
		IPAM struct {
			DataDir     string          `json:"dataDir"`
			LockTimeout json.RawMessage `json:"lockTimeout"`
		} `json:"ipam"`
	}
	if err := r.Decode(&wire); err != nil {
		return nil, err
	}
	wait, err := parseWait(wire.IPAM.LockTimeout)
	if err != nil {
		wait = defaultWait // an error only for ParseConfig
	}
	dataDir := wire.IPAM.DataDir
	if dataDir == "" {
		dataDir = DefaultDataDir
	}
	s := NewStore(dataDir, r.Owner.Network, wait)
	s.home = DefaultDataDir
	return s, nil
}

// Former is a store without leases of its own, for ReleaseElsewhere and ReclaimElsewhere: for
// a configuration that names another IPAM plugin by now, or cannot be read.
func Former(network string) *Store {
	return &Store{network: network, wait: defaultWait, home: DefaultDataDir}
}

// ParseConfig reads the request's configuration, and what the runtime requests by CNI_ARGS,
// args and runtimeConfig. Errors have code 6 or 7.
func ParseConfig(r *cni.Request) (Config, error) {
	var wire wireConfig
	if err := r.Decode(&wire); err != nil {
		return Config{}, err
	}
	if wire.IPAM == nil {
		return Config{}, cni.ConfigErrorf(`ipam: missing; host-local needs at least {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}]]}`)
	}
	if _, err := parseWait(wire.IPAM.LockTimeout); err != nil {
		return Config{}, err
	}
	if dir := wire.IPAM.DataDir; dir != "" && !filepath.IsAbs(dir) {
		return Config{}, cni.ConfigErrorf("ipam.dataDir: %q is relative, and each runtime has another working directory; write an absolute path", dir)
	}
	c := Config{Routes: wire.IPAM.Routes, ResolvConf: wire.IPAM.ResolvConf}
	var err error
	if c.UnavailableWhenFull, err = parseWhenFull(wire.IPAM.WhenFull); err != nil {
		return Config{}, err
	}
	if c.Sets, err = wire.sets(r.Version); err != nil {
		return Config{}, err
	}
	c.Requested, err = wire.requested(r.Args["IP"], c.Sets)
	return c, err
}

// parseWhenFull reads ipam.statusWhenFull.
func parseWhenFull(text string) (unavailable bool, err error) {
	switch text {
	case "", "ready":
		return false, nil
	case "unavailable":
		return true, nil
	}
	return false, cni.ConfigErrorf(`ipam.statusWhenFull: %q is neither "ready" nor "unavailable"; use one of them`, text)
}

// parseWait reads ipam.lockTimeout: seconds, or text like "500ms".
func parseWait(raw json.RawMessage) (time.Duration, error) {
	text := strings.Trim(string(raw), `"`)
	if text == "" || text == "null" {
		return defaultWait, nil
	}
	wait, err := time.ParseDuration(text)
	if seconds, numErr := strconv.ParseFloat(text, 64); numErr == nil && seconds < 1e6 {
		wait, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || wait <= 0 {
		return 0, cni.ConfigErrorf(`ipam.lockTimeout: %s is no duration; give seconds, or text like "500ms"`, raw)
	}
	return wait, nil
}

// keyedSet is a set with its key in the configuration.
type keyedSet struct {
	key string
	set wireSet
}

// sets reads all range sets: first those that the runtime sends, then the only range of old
// configurations, then ipam.ranges.
func (w *wireConfig) sets(version string) ([]Set, error) {
	var all []keyedSet
	for i, set := range w.RuntimeConfig.IPRanges {
		all = append(all, keyedSet{"runtimeConfig.ipRanges[" + strconv.Itoa(i) + "]", set})
	}
	if w.IPAM.Subnet != "" {
		all = append(all, keyedSet{"ipam", wireSet{w.IPAM.wireRange}})
	}
	for i, set := range w.IPAM.Ranges {
		all = append(all, keyedSet{"ipam.ranges[" + strconv.Itoa(i) + "]", set})
	}
	if len(all) == 0 {
		return nil, cni.ConfigErrorf(`ipam.ranges: missing; give at least one, like [[{"subnet": "10.22.0.0/16"}]]`)
	}
	exclude, err := parseExclude("ipam.exclude", w.IPAM.Exclude)
	if err != nil {
		return nil, err
	}
	p := rangeParser{barred: exclude}
	for _, n := range all {
		if err := p.add(n); err != nil {
			return nil, err
		}
	}
	p.finish()
	for i, n := range all {
		if !slices.ContainsFunc(p.sets[i], func(r Range) bool { return r.Size() > 0 }) {
			return nil, cni.ConfigErrorf("%s: nothing is left to lease in %s but gateways, ends of subnets and what is excluded; enlarge the range", n.key, p.sets[i])
		}
	}
	return p.sets, checkFamilies(p.sets, version)
}

// checkFamilies refuses two addresses of one family for results before 0.3.0, which have room
// for one.
func checkFamilies(sets []Set, version string) error {
	if !strings.HasPrefix(version, "0.1.") && !strings.HasPrefix(version, "0.2.") {
		return nil
	}
	count := map[bool]int{}
	for _, set := range sets {
		count[set[0].First.Is4()]++
	}
	if count[true] > 1 || count[false] > 1 {
		return cni.ConfigErrorf("ipam.ranges: cniVersion %s has room for one address of each family; use 0.3.0 or later", version)
	}
	return nil
}

// rangeParser reads ranges and checks that they do not overlap.
type rangeParser struct {
	sets   []Set
	seen   []keyedRange
	barred []span // the addresses that no range may lease
}

type keyedRange struct {
	key string
	Range
}

func (p *rangeParser) add(n keyedSet) error {
	if len(n.set) == 0 {
		return cni.ConfigErrorf("%s: empty; a range set needs at least one range", n.key)
	}
	var set Set
	for i, wire := range n.set {
		key := n.key
		if key != "ipam" {
			key += "[" + strconv.Itoa(i) + "]"
		}
		r, err := wire.parse(key)
		if err != nil {
			return err
		}
		if i > 0 && r.First.Is4() != set[0].First.Is4() {
			return cni.ConfigErrorf("%s.subnet: %s and %s are of different families; put each family into a set of its own", key, r.Subnet, set[0].Subnet)
		}
		if err := p.note(key, r); err != nil {
			return err
		}
		if key != "ipam" { // sets has read ipam.exclude, which is for all
			own, err := parseExclude(key+".exclude", wire.Exclude)
			if err != nil {
				return err
			}
			p.barred = append(p.barred, own...)
		}
		set = append(set, r)
	}
	p.sets = append(p.sets, set)
	return nil
}

// note adds a range, with its addresses that must not be leased, unless it overlaps with one
// before it.
func (p *rangeParser) note(key string, r Range) error {
	for _, other := range p.seen {
		if r.First.Compare(other.Last) <= 0 && other.First.Compare(r.Last) <= 0 {
			return cni.ConfigErrorf("%s: %s overlaps with %s (%s); ranges must be apart, since each address is leased once", key, r, other.Range, other.key)
		}
	}
	p.seen = append(p.seen, keyedRange{key, r})
	if r.Gateway.IsValid() {
		p.barred = append(p.barred, span{r.Gateway, r.Gateway})
	}
	if hasEnds(r.Subnet) {
		first, last := r.Subnet.Addr(), lastOf(r.Subnet)
		p.barred = append(p.barred, span{first, first}, span{last, last})
	}
	return nil
}

// finish excludes from every range what any of them must not lease.
func (p *rangeParser) finish() {
	for _, set := range p.sets {
		for i := range set {
			set[i] = set[i].withBarred(p.barred)
		}
	}
}

// parse reads one range; key is where it stands.
func (w wireRange) parse(key string) (Range, error) {
	if w.Subnet == "" {
		return Range{}, cni.ConfigErrorf("%s.subnet: missing; a range needs one, like 10.22.0.0/16", key)
	}
	subnet, err := cni.ParsePrefix(w.Subnet)
	if err != nil {
		return Range{}, cni.ConfigErrorf("%s.subnet: %q is not a subnet; write it like 10.22.0.0/16", key, w.Subnet)
	}
	if subnet.Masked() != subnet {
		return Range{}, cni.ConfigErrorf("%s.subnet: %s has host bits set; the subnet is %s", key, subnet, subnet.Masked())
	}
	r := Range{Subnet: subnet}
	r.First, r.Last = hostSpan(subnet)
	if w.RangeStart != "" {
		if r.First, err = w.within(subnet, key+".rangeStart", w.RangeStart); err != nil {
			return Range{}, err
		}
	}
	if w.RangeEnd != "" {
		if r.Last, err = w.within(subnet, key+".rangeEnd", w.RangeEnd); err != nil {
			return Range{}, err
		}
	}
	if r.Last.Less(r.First) {
		return Range{}, cni.ConfigErrorf("%s.rangeEnd: %s comes before rangeStart, %s; swap them", key, r.Last, r.First)
	}
	r.Gateway, err = parseGateway(key+".gateway", w.Gateway, subnet)
	return r, err
}

// hostSpan is the default range of a subnet: from the second address to the last, or with
// IPv4 to the one before the broadcast address. In a subnet of one or two addresses, it is
// all of them.
func hostSpan(p netip.Prefix) (first, last netip.Addr) {
	first, last = p.Addr(), lastOf(p)
	if p.Addr().BitLen()-p.Bits() > 1 {
		first = first.Next()
		if p.Addr().Is4() {
			last = last.Prev()
		}
	}
	return first, last
}

func (wireRange) within(subnet netip.Prefix, key, text string) (netip.Addr, error) {
	a, err := cni.ParseAddr(text)
	if err == nil && !subnet.Contains(a) {
		err = fmt.Errorf("%s is outside %s; a range is a part of its subnet", a, subnet)
	}
	return a, cni.ConfigError(key, err)
}

// parseExclude reads a list of addresses and prefixes.
func parseExclude(key string, list []string) ([]span, error) {
	var spans []span
	for i, text := range list {
		if a, err := cni.ParseAddr(text); err == nil {
			spans = append(spans, span{a, a})
			continue
		}
		p, err := cni.ParsePrefix(text)
		if err != nil {
			return nil, cni.ConfigErrorf("%s[%d]: %q is neither an address nor a prefix; write it like 10.22.0.7 or 10.22.0.0/28", key, i, text)
		}
		spans = append(spans, prefixSpan(p))
	}
	return spans, nil
}
