package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
)

// portConfig has the keys for port mappings; they are those of the reference plugin
// portmap. A pointer is nil if the key was left out.
type portConfig struct {
	Backend              string   `json:"backend"`
	SNAT                 *bool    `json:"snat"`
	MasqAll              bool     `json:"masqAll"`
	MarkMasqBit          *int     `json:"markMasqBit"`
	ExternalSetMarkChain string   `json:"externalSetMarkChain"`
	ConditionsV4         []string `json:"conditionsV4"`
	ConditionsV6         []string `json:"conditionsV6"`
	NerdctlID            string   `json:"nerdctlID"`
	RuntimeConfig        struct {
		PortMappings []portEntry `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// portEntry is a port mapping as runtimes send it (CONVENTIONS.md of the spec). They differ
// in the case of the keys.
type portEntry struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// defaultMarkBit is the reference plugin's default; Kubernetes uses bits 14 and 15.
const defaultMarkBit = 13

// PortOptions is how ports are mapped.
type PortOptions struct {
	// SNAT masquerades connections that would get no answer otherwise: from 127.0.0.1,
	// from the container itself and from its neighbours.
	SNAT bool
	// MasqueradeAll masquerades all connections to mapped ports; it needs SNAT.
	MasqueradeAll bool
	// The other options are for iptables only.
	MarkBit                  int    // the bit of the packet mark that says "masquerade"
	SetMarkChain             string // another program's chain that marks packets instead
	Conditions4, Conditions6 []string
}

// PortSettings is what a configuration asks for by the keys for port mappings.
type PortSettings struct {
	Backend Backend
	PortOptions
	requests []portRequest
}

// portRequest is a port mapping before the container's addresses are known.
type portRequest struct {
	field                   string
	protocol                Protocol
	host                    netip.Addr // the zero Addr: any address of both families
	hostPort, containerPort uint16
}

// Any says whether the configuration has a port mapping.
func (s PortSettings) Any() bool { return len(s.requests) > 0 }

// ReadPorts reads the keys for port mappings from the configuration of a plugin that has the
// capability portMappings. Errors have code 2, 6 or 7.
func ReadPorts(r *cni.Request) (PortSettings, error) {
	var c portConfig
	if err := r.Decode(&c); err != nil {
		return PortSettings{}, err
	}
	s, err := c.options()
	if err != nil {
		return PortSettings{}, err
	}
	if s.Backend == Auto && (c.NerdctlID != "" || isNerdctl(r.Args)) && iptables.Installed(iptables.IPv4().Program) {
		s.Backend = IPTables
	}
	for i, entry := range c.RuntimeConfig.PortMappings {
		request, err := entry.read(i)
		if err != nil {
			return PortSettings{}, err
		}
		if s.requests, err = addRequest(s.requests, request); err != nil {
			return PortSettings{}, err
		}
	}
	return s, nil
}

// isNerdctl says whether nerdctl calls, by CNI_ARGS: its network lists have a key nerdctlID,
// but beside the plugins, and libcni does not pass that on. nerdctl chooses host ports
// itself, and reads chain CNI-HOSTPORT-DNAT of iptables to learn which are taken: if they
// were mapped by nftables, it would choose the first one again and again.
func isNerdctl(args map[string]string) bool {
	for key := range args {
		if strings.HasPrefix(key, "NERDCTL_") {
			return true
		}
	}
	return false
}

func (c portConfig) options() (PortSettings, error) {
	backend, err := ParseBackend(c.Backend)
	if err != nil {
		return PortSettings{}, cni.ConfigErrorf("backend: %w", err)
	}
	s := PortSettings{Backend: backend, PortOptions: PortOptions{
		SNAT: c.SNAT == nil || *c.SNAT, MasqueradeAll: c.MasqAll, MarkBit: defaultMarkBit,
		SetMarkChain: c.ExternalSetMarkChain, Conditions4: c.ConditionsV4, Conditions6: c.ConditionsV6,
	}}
	if c.MarkMasqBit != nil {
		s.MarkBit = *c.MarkMasqBit
	}
	if s.MarkBit < 0 || s.MarkBit > 31 {
		return PortSettings{}, cni.ConfigErrorf("markMasqBit: %d is not a bit of a packet mark; use 0 to 31", s.MarkBit)
	}
	if c.MarkMasqBit != nil && s.SetMarkChain != "" {
		return PortSettings{}, cni.ConfigErrorf("markMasqBit: %d given beside externalSetMarkChain %q; leave one of them out", s.MarkBit, s.SetMarkChain)
	}
	if s.Backend == Auto && s.needsIPTables() != "" {
		s.Backend = IPTables // these keys imply the reference plugin's default backend
	}
	return s, s.fits(s.Backend)
}

// needsIPTables returns the name of a given key that only iptables supports, or "".
func (o PortOptions) needsIPTables() string {
	switch {
	case o.SetMarkChain != "":
		return "externalSetMarkChain"
	case len(o.Conditions4) > 0:
		return "conditionsV4"
	case len(o.Conditions6) > 0:
		return "conditionsV6"
	}
	return ""
}

// diff describes which options differ from those that the ports were mapped with.
func (o PortOptions) diff(have *recordedPorts) []string {
	type key struct {
		name       string
		want, have any
	}
	keys := []key{{"snat", o.SNAT, have.SNAT}, {"masqAll", o.MasqueradeAll, have.MasqueradeAll}}
	if have.Backend == IPTables {
		keys = append(keys,
			key{"markMasqBit", o.MarkBit, have.MarkBit}, key{"externalSetMarkChain", o.SetMarkChain, have.SetMarkChain},
			key{"conditionsV4", strings.Join(o.Conditions4, " "), strings.Join(have.Conditions4, " ")},
			key{"conditionsV6", strings.Join(o.Conditions6, " "), strings.Join(have.Conditions6, " ")})
	}
	var diffs []string
	for _, key := range keys {
		if key.want != key.have {
			diffs = append(diffs, fmt.Sprintf("%s: want %v, have the ports mapped with %v", key.name, key.want, key.have))
		}
	}
	return diffs
}

// fits returns an error if the backend does not support an option, or conditions are not
// words of iptables.
func (o PortOptions) fits(backend Backend) error {
	if field := o.needsIPTables(); field != "" && backend == NFTables {
		return cni.UnsupportedErrorf("%s: not with backend %q, which keeps port mappings in maps rather than in rules; leave it out, or set backend to %q",
			field, NFTables, IPTables)
	}
	for field, words := range map[string][]string{"conditionsV4": o.Conditions4, "conditionsV6": o.Conditions6} {
		// A condition of iptables begins with an option or "!", one of nftables does not.
		if len(words) > 0 && !strings.HasPrefix(words[0], "-") && words[0] != "!" {
			return cni.UnsupportedErrorf("%s: %q is not a condition of iptables, and backend %q alone has conditions; begin with an option such as \"-s\"",
				field, strings.Join(words, " "), IPTables)
		}
		if i := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w, "\n\"\\") }); i >= 0 {
			return cni.ConfigErrorf("%s[%d]: %q holds a quote, backslash or line break; leave those out", field, i, words[i])
		}
	}
	return nil
}

func (e portEntry) read(i int) (portRequest, error) {
	field := "runtimeConfig.portMappings[" + strconv.Itoa(i) + "]"
	request := portRequest{field: field, protocol: TCP, hostPort: uint16(e.HostPort), containerPort: uint16(e.ContainerPort)}
	if e.HostPort < 1 || e.HostPort > 65535 {
		return request, cni.ConfigErrorf("%s.hostPort: %d is not a port; use 1 to 65535", field, e.HostPort)
	}
	if e.ContainerPort < 1 || e.ContainerPort > 65535 {
		return request, cni.ConfigErrorf("%s.containerPort: %d is not a port; use 1 to 65535", field, e.ContainerPort)
	}
	if e.Protocol != "" {
		request.protocol = Protocol(strings.ToLower(e.Protocol))
	}
	if request.protocol.number() == 0 {
		return request, cni.ConfigErrorf("%s.protocol: %q has no ports that could be mapped; use tcp, udp or sctp", field, e.Protocol)
	}
	var err error
	request.host, err = readHostIP(field+".hostIP", e.HostIP)
	return request, err
}

func readHostIP(field, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	host, err := netip.ParseAddr(s)
	if err != nil || host.Zone() != "" || host.IsMulticast() {
		return host, cni.ConfigErrorf("%s: %q is not an address of this host; use one like 192.0.2.1 or 2001:db8::1, or leave it out for all", field, s)
	}
	if host == netip.IPv6Loopback() {
		return host, cni.UnsupportedErrorf("%s: ::1 cannot be mapped, since the kernel never forwards it; use 127.0.0.1, or an IPv6 address of an interface", field)
	}
	if host = host.Unmap(); host.Is6() && host.IsLinkLocalUnicast() { // RFC 4291, 2.5.6
		return host, cni.UnsupportedErrorf("%s: %s cannot be mapped, since the kernel never forwards what has a link-local address, as its clients have; use another IPv6 address of the interface", field, host)
	}
	return host, nil
}

// addRequest appends a request unless it is there already. A host port with two container
// ports is an error.
func addRequest(requests []portRequest, r portRequest) ([]portRequest, error) {
	for _, had := range requests {
		if had.protocol != r.protocol || had.hostPort != r.hostPort || had.host != r.host {
			continue
		}
		if had.containerPort != r.containerPort {
			return nil, cni.ConfigErrorf("%s.hostPort: %d/%s leads to container port %d by %s already; choose another host port",
				r.field, r.hostPort, r.protocol, had.containerPort, had.field)
		}
		return requests, nil
	}
	return append(requests, r), nil
}

// For returns the port mappings of a container with these addresses, of which the first of
// each family is used; hostLinks are the host veths of its attachment.
func (s PortSettings) For(addresses []netip.Prefix, hostLinks []string) (Ports, error) {
	ports := Ports{PortOptions: s.PortOptions, HostLinks: hostLinks}
	for _, f := range families() {
		i := slices.IndexFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == f.is4 })
		if i >= 0 {
			ports.Subnets = append(ports.Subnets, addresses[i])
		}
	}
	for _, request := range s.requests {
		mappings := request.to(ports.Subnets)
		switch {
		case len(addresses) == 0:
			return Ports{}, cni.ConfigErrorf("%s: host port %d/%s cannot lead to the container, which has no address; leave the mapping out, or give the network an ipam (one without is a layer 2 network)",
				request.field, request.hostPort, request.protocol)
		case len(mappings) == 0:
			return Ports{}, cni.ConfigErrorf("%s.hostIP: %s cannot lead to the container, whose addresses are %v; use a hostIP of their family, or leave it out",
				request.field, request.hostText(), addresses)
		}
		for _, m := range mappings {
			i := slices.IndexFunc(ports.Mappings, func(had Mapping) bool { return had.Protocol == m.Protocol && had.Host == m.Host })
			switch {
			case i < 0:
				ports.Mappings = append(ports.Mappings, m)
			case ports.Mappings[i] != m: // one request has no hostIP, the other 0.0.0.0 or ::
				return Ports{}, cni.ConfigErrorf("%s.hostPort: %d/%s on %s leads to container port %d already; choose another host port",
					request.field, m.Host.Port(), m.Protocol, hostName(m.Host.Addr()), ports.Mappings[i].Container.Port())
			}
		}
	}
	return ports, nil
}

func (r portRequest) hostText() string {
	if !r.host.IsValid() {
		return "any address"
	}
	return r.host.String()
}

// to returns the mappings to the container's addresses, one for each family that the host
// address allows.
func (r portRequest) to(containers []netip.Prefix) []Mapping {
	var mappings []Mapping
	for _, container := range containers {
		host := r.host
		if !host.IsValid() {
			host = netip.IPv6Unspecified()
			if container.Addr().Is4() {
				host = netip.IPv4Unspecified()
			}
		}
		if host.Is4() == container.Addr().Is4() {
			mappings = append(mappings, Mapping{
				Protocol: r.protocol, Host: netip.AddrPortFrom(host, r.hostPort),
				Container: netip.AddrPortFrom(container.Addr(), r.containerPort),
			})
		}
	}
	return mappings
}

// MasqueradeConfig is the key "masquerade" of a network's configuration.
type MasqueradeConfig struct {
	Exclude     []string `json:"exclude"`
	SNATIP4     string   `json:"snatIP4"`
	SNATIP6     string   `json:"snatIP6"`
	RandomFully bool     `json:"randomFully"`
}

// Of returns the masquerade of a network with these subnets. Errors have code 7.
func (c MasqueradeConfig) Of(subnets []netip.Prefix) (Masquerade, error) {
	m := Masquerade{Prefixes: subnets, RandomFully: c.RandomFully}
	for i, s := range c.Exclude {
		prefix, err := cni.ParsePrefix(s)
		if err != nil {
			return m, cni.ConfigErrorf("masquerade.exclude[%d]: %q is not a prefix; write it like 10.0.0.0/8", i, s)
		}
		m.Exclude = append(m.Exclude, prefix.Masked())
	}
	for _, fixed := range []struct {
		field, text string
		to          *netip.Addr
	}{{"masquerade.snatIP4", c.SNATIP4, &m.SNAT4}, {"masquerade.snatIP6", c.SNATIP6, &m.SNAT6}} {
		if fixed.text == "" {
			continue
		}
		addr, err := netip.ParseAddr(fixed.text)
		if err != nil {
			return m, cni.ConfigErrorf("%s: %q is not an address; write it like 192.0.2.1 or 2001:db8::1", fixed.field, fixed.text)
		}
		*fixed.to = addr
	}
	return m, m.check()
}
