package bridge

import (
	"errors"
	"math"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Status is an error of code 50 if an ADD could not create its links. It asks the kernel by a
// message that it must refuse: create a link of the kind with an impossible MTU. An unknown
// kind, or a caller without CAP_NET_ADMIN, gets another error, before the kernel looks at the
// MTU (rtnl_newlink and rtnl_create_link, net/core/rtnetlink.c).
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
		// a kernel that filters VLANs answers with another error, as no link has this index
		if _, err := vlansOf(math.MaxInt32); errors.Is(err, unix.EOPNOTSUPP) {
			failed = cni.UnavailableErrorf("vlan, vlanTrunk: %s: this kernel has no VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING): %w", v, err)
		}
	}
	return failed
}

// servable is an error for what an ADD would refuse (see refuse), as far as that depends on
// the host and not on a lease.
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
