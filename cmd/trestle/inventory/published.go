package inventory

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Published is a range of host ports that is mapped to a range of container ports. The snapshot
// has a Port for each port and family.
type Published struct {
	Protocol string `json:"protocol"`
	// Hosts are the host's addresses; none stands for all.
	Hosts     []netip.Addr `json:"hosts,omitempty"`
	Host      uint16       `json:"host"`
	Container uint16       `json:"container"`
	// Count is the number of ports in the range.
	Count uint16 `json:"count"`
}

// String is as docker writes it: "8080->80/tcp", "127.0.0.1:8080-8090->80-90/udp".
func (p Published) String() string {
	var hosts []string
	for _, host := range p.Hosts {
		text := host.String()
		if host.Is6() {
			text = "[" + text + "]"
		}
		hosts = append(hosts, text)
	}
	at := strings.Join(hosts, ",")
	if at != "" {
		at += ":"
	}
	return fmt.Sprintf("%s%s->%s/%s", at, span(p.Host, p.Count), span(p.Container, p.Count), p.Protocol)
}

func span(first, count uint16) string {
	if count <= 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, first+count-1)
}

// Published joins the attachment's ports to ranges.
func (a Attachment) Published() []Published {
	var single []Published
	for _, port := range a.Ports {
		same := func(p Published) bool {
			return p.Protocol == port.Protocol && p.Host == port.Host.Port() && p.Container == port.Container.Port() &&
				(len(p.Hosts) == 0) == port.Host.Addr().IsUnspecified()
		}
		i := slices.IndexFunc(single, same)
		if i < 0 {
			i = len(single)
			single = append(single, Published{Protocol: port.Protocol, Host: port.Host.Port(), Container: port.Container.Port(), Count: 1})
		}
		if address := port.Host.Addr(); !address.IsUnspecified() && !slices.Contains(single[i].Hosts, address) {
			single[i].Hosts = append(single[i].Hosts, address)
		}
	}
	slices.SortFunc(single, func(x, y Published) int {
		return cmp.Or(cmp.Compare(x.Protocol, y.Protocol), slices.CompareFunc(x.Hosts, y.Hosts, netip.Addr.Compare), cmp.Compare(x.Host, y.Host))
	})
	var joined []Published
	for _, p := range single {
		if n := len(joined); n > 0 && joined[n-1].continues(p) {
			joined[n-1].Count++
			continue
		}
		joined = append(joined, p)
	}
	return joined
}

func (p Published) continues(next Published) bool {
	return p.Protocol == next.Protocol && slices.Equal(p.Hosts, next.Hosts) && p.Host+p.Count == next.Host && p.Container+p.Count == next.Container
}
