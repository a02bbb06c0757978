// Package bridge makes, checks and deletes the links, addresses and routes of one
// attachment to a bridge.
//
// A caller parses the configuration (ParseConfig) and makes of the Config, the owner and a
// Lease a State (NewPlan), which is plain data. ADD is Host.Attach, which calls the caller
// when the links are there and the container is not reachable yet; CHECK makes the State
// again (PlanFromResult), reads another one from the kernel (Host.Observe) and compares them
// (Diff); DEL is Host.Detach, by the owner alone. If the IPAM plugin needs the link to find
// an address, ADD is NewLinkPlan, Attach, State.WithLease and Host.Configure. MAC checks
// are SpoofChecks. Start at State and NewPlan.
//
// To debug: ip -details link (the alias of a host veth is its owner), bridge vlan, nft
// list table bridge trestle for MAC checks; strace decodes all netlink messages.
package bridge

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Config is a network's configuration, validated.
type Config struct {
	Bridge          string
	Gateway         bool // the bridge has each subnet's gateway address
	DefaultGateway  bool // and containers have a default route to it
	ForceAddress    bool // delete the network's former gateway addresses from the bridge
	Transient       bool // delete a bridge of ours with its last port
	MTU             int  // of a new bridge; 0: that of the default route's link
	Hairpin         bool
	Promisc         bool
	VLAN            int   // 0: none
	Trunk           []int // VLANs that pass tagged, ascending
	KeepDefaultVLAN bool
	MACSpoofCheck   bool
	DAD             bool // wait for duplicate address detection
	InterfaceDown   bool // the container's interface stays down
	Isolated        bool
	IPv6LinkLocal   bool             // the kernel may give link-local addresses
	MAC             net.HardwareAddr // asked for; nil: derived from the address
	DNS             types.DNS
	IPAM            string // ipam.type; empty: a layer 2 network
	// IPv6Field is the field of ipam that asks for IPv6 ("ipam.ranges[1]"); empty if there
	// is none, or it is not recognized.
	IPv6Field string
	// RouteFields says that routes of the configuration's version have mtu, advmss,
	// priority, table and scope (CNI spec 1.1.0).
	RouteFields bool
}

// wire is the configuration's JSON.
type wire struct {
	Bridge                    string       `json:"bridge"`
	IsGateway                 bool         `json:"isGateway"`
	IsDefaultGateway          bool         `json:"isDefaultGateway"`
	ForceAddress              bool         `json:"forceAddress"`
	MTU                       int          `json:"mtu"`
	HairpinMode               bool         `json:"hairpinMode"`
	PromiscMode               bool         `json:"promiscMode"`
	VLAN                      int          `json:"vlan"`
	VLANTrunk                 []trunkEntry `json:"vlanTrunk"`
	PreserveDefaultVLAN       bool         `json:"preserveDefaultVlan"`
	MACSpoofChk               bool         `json:"macspoofchk"`
	EnableDAD                 bool         `json:"enabledad"`
	DisableContainerInterface bool         `json:"disableContainerInterface"`
	PortIsolation             bool         `json:"portIsolation"`
	IPv6LinkLocal             *bool        `json:"ipv6LinkLocal"`
	BridgeLifetime            string       `json:"bridgeLifetime"`
	DNS                       types.DNS    `json:"dns"`
	IPAM                      struct {
		Type string `json:"type"`
	} `json:"ipam"`
	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
}

type trunkEntry struct {
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
	ID    *int `json:"id"`
}

const (
	defaultBridge = "cni0"
	lifetimeAuto  = "auto"
)

// ParseConfig reads the keys of the bridge plugin. Errors have code 6 or 7; the Config beside
// an error has what could be read, for DEL and GC, which must work even if the configuration
// has become invalid since the ADD.
func ParseConfig(r *cni.Request) (Config, error) {
	var w wire
	decodeErr := r.Decode(&w)
	c := Config{
		Bridge:          w.Bridge,
		Gateway:         w.IsGateway || w.IsDefaultGateway,
		DefaultGateway:  w.IsDefaultGateway,
		ForceAddress:    w.ForceAddress,
		Transient:       w.BridgeLifetime == lifetimeAuto,
		MTU:             w.MTU,
		Hairpin:         w.HairpinMode,
		Promisc:         w.PromiscMode,
		VLAN:            w.VLAN,
		KeepDefaultVLAN: w.PreserveDefaultVLAN,
		MACSpoofCheck:   w.MACSpoofChk,
		DAD:             w.EnableDAD,
		InterfaceDown:   w.DisableContainerInterface,
		Isolated:        w.PortIsolation,
		IPv6LinkLocal:   w.IPv6LinkLocal == nil || *w.IPv6LinkLocal,
		DNS:             w.DNS,
		IPAM:            w.IPAM.Type,
		IPv6Field:       ipv6Field(r),
	}
	// a version that cannot be parsed was refused before
	c.RouteFields, _ = version.GreaterThanOrEqualTo(r.Version, "1.1.0")
	if c.Bridge == "" {
		c.Bridge = defaultBridge
	}
	var lifetimeErr, trunkErr, macErr error
	if w.BridgeLifetime != "" && w.BridgeLifetime != lifetimeAuto {
		lifetimeErr = cni.ConfigErrorf("bridgeLifetime: unknown %q; use %q to delete the bridge with its last port, or leave the key out to keep it", w.BridgeLifetime, lifetimeAuto)
	}
	c.Trunk, trunkErr = parseTrunk(w.VLANTrunk)
	c.MAC, macErr = w.mac(r.Args["MAC"])
	if decodeErr != nil {
		return c, decodeErr // what could not be read is no further mistake
	}
	return c, errors.Join(c.check(), c.checkVersion(r.Version), lifetimeErr, trunkErr, macErr)
}

// checkVersion refuses a layer 2 network for results before 0.3.0, which have an address and
// no interfaces.
func (c Config) checkVersion(cniVersion string) error {
	if c.IPAM != "" || cniVersion != "0.1.0" && cniVersion != "0.2.0" {
		return nil
	}
	return cni.ConfigErrorf("cniVersion: results of %q need an address, which a network without ipam does not give; use 0.3.0 or later", cniVersion)
}

func (c Config) check() error {
	if err := errors.Join(cni.ConfigError("bridge", cni.CheckIfName(c.Bridge)), cni.ConfigError("mtu", cni.CheckMTU(c.MTU))); err != nil {
		return err
	}
	switch {
	case c.Hairpin && c.Promisc:
		return cni.ConfigErrorf("hairpinMode, promiscMode: both are true; choose one, the bridge would deliver each hairpin frame twice")
	case c.VLAN < 0 || c.VLAN > maxVLAN:
		return cni.ConfigErrorf("vlan: %d is out of bounds; use 1 to %d, or 0 for none", c.VLAN, maxVLAN)
	case c.VLAN != 0 && c.Gateway && len(vlanInterface(c.Bridge, c.VLAN)) > 15:
		return cni.ConfigErrorf("bridge: the name %q leaves no room for the gateway's interface %s, 15 bytes at most; choose a shorter one", c.Bridge, vlanInterface(c.Bridge, c.VLAN))
	case c.InterfaceDown && c.IPAM != "":
		return cni.ConfigErrorf("disableContainerInterface: true does not go with ipam.type %q; an interface that stays down takes no address", c.IPAM)
	case strings.ContainsAny(c.IPAM, "/\\") || c.IPAM == "..":
		return cni.ConfigErrorf("ipam.type: %q is a path; give the name of a plugin in CNI_PATH", c.IPAM)
	}
	return nil
}

const maxVLAN = 4094 // 4095 is reserved (802.1Q)

// ipv6Field is the first field of ipam that asks for IPv6 addresses, by the keys of
// host-local and static; "" if there is none. The IPAM plugin reports errors in ipam.
func ipv6Field(r *cni.Request) string {
	var w struct {
		IPAM struct {
			Subnet    string                      `json:"subnet"`
			Ranges    [][]struct{ Subnet string } `json:"ranges"`
			Addresses []struct{ Address string }  `json:"addresses"`
		} `json:"ipam"`
	}
	if r.Decode(&w) != nil {
		return ""
	}
	if strings.Contains(w.IPAM.Subnet, ":") {
		return "ipam.subnet"
	}
	for i, set := range w.IPAM.Ranges {
		if slices.ContainsFunc(set, func(one struct{ Subnet string }) bool { return strings.Contains(one.Subnet, ":") }) {
			return fmt.Sprintf("ipam.ranges[%d]", i)
		}
	}
	for i, a := range w.IPAM.Addresses {
		if strings.Contains(a.Address, ":") {
			return fmt.Sprintf("ipam.addresses[%d]", i)
		}
	}
	return ""
}

func parseTrunk(entries []trunkEntry) ([]int, error) {
	var ids []int
	for i, e := range entries {
		at := cni.Entry("vlanTrunk[]", i)
		switch {
		case (e.MinID == nil) != (e.MaxID == nil):
			return nil, cni.ConfigErrorf("%s: minID and maxID come together; use id for one VLAN", at)
		case e.MinID == nil && e.ID == nil:
			return nil, cni.ConfigErrorf("%s: empty; give id, or minID and maxID", at)
		}
		if err := errors.Join(checkTrunkVLAN(at+".minID", e.MinID), checkTrunkVLAN(at+".maxID", e.MaxID), checkTrunkVLAN(at+".id", e.ID)); err != nil {
			return nil, err
		}
		if e.ID != nil {
			ids = append(ids, *e.ID)
		}
		if e.MinID == nil {
			continue
		}
		if *e.MaxID < *e.MinID {
			return nil, cni.ConfigErrorf("%s.maxID: %d is less than minID, %d; swap them", at, *e.MaxID, *e.MinID)
		}
		for id := *e.MinID; id <= *e.MaxID; id++ {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func checkTrunkVLAN(field string, id *int) error {
	if id != nil && (*id < 1 || *id > maxVLAN) {
		return cni.ConfigErrorf("%s: %d is out of bounds; use 1 to %d", field, *id, maxVLAN)
	}
	return nil
}

// mac is the MAC that is asked for: by runtimeConfig, else by args, else by CNI_ARGS.
func (w *wire) mac(fromArgs string) (net.HardwareAddr, error) {
	asked := []struct{ field, value string }{
		{"runtimeConfig.mac", w.RuntimeConfig.MAC},
		{"args.cni.mac", w.Args.CNI.MAC},
		{"CNI_ARGS MAC", fromArgs},
	}
	for _, a := range asked {
		if a.value == "" {
			continue
		}
		mac, err := cni.ParseMAC(a.value)
		return mac, cni.ConfigError(a.field, err)
	}
	return nil, nil
}
