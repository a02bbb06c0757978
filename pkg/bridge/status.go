package bridge

import (
	"errors"
	"math"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Status is an error of code 50 unless an ADD could make its links. The kernel
// itself is asked, by a message that it must refuse: a link of the kind with an
// MTU that no link has. A kind that it does not know, or a caller without
// CAP_NET_ADMIN, it refuses before it looks at the MTU (rtnl_newlink and
// rtnl_create_link, net/core/rtnetlink.c).
func (h *Host) Status(c Config) error {
	kinds := []string{"bridge", "veth"}
	if c.VLAN != 0 && c.Gateway {
		kinds = append(kinds, "vlan")
	}
	var failed error
	for _, kind := range kinds {
		if err := probeLink(kind); !errors.Is(err, unix.EINVAL) {
			failed = errors.Join(failed, cni.UnavailableErrorf("kernel: links of type %s cannot be made here: %w", kind, err))
		}
	}
	failed = errors.Join(failed, h.servable(c))
	if v := planVLAN(c); failed == nil && v.filters() {
		// its VLANs are known by no other message; no link has this index
		if _, err := vlansOf(math.MaxInt32); errors.Is(err, unix.EOPNOTSUPP) {
			failed = cni.UnavailableErrorf("vlan, vlanTrunk: %s: this kernel knows no VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING): %w", v, err)
		}
	}
	return failed
}

// servable looks at what an ADD would refuse before it changes anything.
func (h *Host) servable(c Config) error {
	b := Bridge{Name: c.Bridge}
	if c.VLAN != 0 && c.Gateway {
		b.VLANInterface = vlanInterface(c.Bridge, c.VLAN)
	}
	at, err := h.look(b)
	if err != nil {
		return cni.UnavailableErrorf("%w", err)
	}
	var failed error
	if why := at.cannotFilter(planVLAN(c)); why != "" {
		failed = cni.UnavailableErrorf("%s", why)
	}
	if lack := at.lackOfIPv6(); c.Gateway && c.IPv6Field != "" && lack != "" {
		failed = errors.Join(failed, cni.UnavailableErrorf("%s: IPv6 is asked for on this host, %s, or take the IPv6 range out of the network", c.IPv6Field, lack))
	}
	return failed
}

func probeLink(kind string) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("trestle-probe")))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
