// Package attach attaches containers to networks and detaches them, as a runtime does: it
// runs the chain of plugins with libcni, which caches the result where any runtime that uses
// libcni finds it.
package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// Runtime attaches and detaches with the plugins in these directories. Snapshot is the state
// of the host.
type Runtime struct {
	Plugins  []string
	Lists    []network.List
	Snapshot *inventory.Snapshot
}

// Wish is the attachment that the flags ask for.
type Wish struct {
	Container string
	NetNS     string // path
	IfName    string // "": the first of eth0, eth1 … that is free
	MAC       string
	IPs       []string
	Publish   []Publication
}

// Attached is the attachment that Add made.
type Attached struct {
	Network   string                `json:"network"`
	Container string                `json:"container"`
	IfName    string                `json:"ifname"`
	NetNS     string                `json:"netns"`
	MAC       string                `json:"mac,omitempty"`
	Addresses []netip.Prefix        `json:"addresses"`
	Gateways  []netip.Addr          `json:"gateways,omitempty"`
	Ports     []inventory.Published `json:"ports,omitempty"`
	DNS       types.DNS             `json:"dns"`
}

// Add attaches the container; the caller holds LockNetNS. It checks the wish before it changes
// anything, and undoes what it has done if it fails.
func (r Runtime) Add(ctx context.Context, name string, w Wish) (Attached, error) {
	list, facts, err := r.list(name)
	if err != nil {
		return Attached{}, err
	}
	if err := w.check(); err != nil {
		return Attached{}, err
	}
	if len(w.Publish) > 0 && !facts.Ports {
		return Attached{}, cni.ConfigErrorf("--publish: network %s publishes no ports, since none of its plugins does; leave it out, or take another network", name)
	}
	rt := &libcni.RuntimeConf{
		ContainerID: w.Container, NetNS: w.NetNS, IfName: w.IfName,
		Args: [][2]string{{"IgnoreUnknown", "1"}}, CapabilityArgs: map[string]any{},
	}
	if err := w.ask(list, r.Snapshot, rt); err != nil {
		return Attached{}, err
	}
	if err := r.hasPlugins(list); err != nil {
		return Attached{}, err
	}
	ports, err := choose(w.Publish, r.Snapshot)
	if err != nil {
		return Attached{}, err
	}
	defer ports.release()
	if len(ports.mappings) > 0 {
		rt.CapabilityArgs["portMappings"] = ports.mappings
	}
	result, err := r.add(ctx, list, rt)
	if err != nil {
		return Attached{}, fmt.Errorf("attach %s to network %s: %w", w.Container, name, err)
	}
	return attachedOf(name, rt, result, published(ports.mappings)), nil
}

// list finds the network list with that name; the error names the existing ones.
func (r Runtime) list(name string) (network.List, network.Facts, error) {
	list, ok := network.Find(r.Lists, name)
	if !ok {
		var names []string
		for _, l := range r.Lists {
			names = append(names, l.Name)
		}
		return list, network.Facts{}, network.Unknown(name, names)
	}
	facts, err := list.Facts()
	if err != nil {
		return list, facts, fmt.Errorf("%s: %w", list.File, err)
	}
	return list, facts, nil
}

// CheckContainer is an error if the name cannot be a container's.
func CheckContainer(name string) error {
	if utils.ValidateContainerID(name) != nil || len(name) > 200 {
		return cni.ConfigErrorf("container: %q is not a container name; use letters and digits, and after the first of them also _ . -", name)
	}
	return nil
}

// hasPlugins is an error if a plugin of the list is in no directory.
func (r Runtime) hasPlugins(list network.List) error {
	for _, name := range list.Types() {
		if _, err := invoke.FindInPath(name, r.Plugins); err != nil {
			return cni.ConfigErrorf("--plugins: there is no plugin %q in %s, and network %s needs it; install it (make install), or name the directory that has it",
				name, strings.Join(r.Plugins, ", "), list.Name)
		}
	}
	return nil
}

// Knows is an error if there is no network with that name.
func (r Runtime) Knows(name string) error {
	_, _, err := r.list(name)
	return err
}

// Publishes says whether a network's plugins publish ports.
func (r Runtime) Publishes(name string) bool {
	_, facts, err := r.list(name)
	return err == nil && facts.Ports
}

// check refuses what is wrong for any network.
func (w Wish) check() error {
	if err := CheckContainer(w.Container); err != nil {
		return err
	}
	if w.IfName == "lo" {
		return cni.ConfigErrorf("--ifname: every container has an interface lo already; choose another, as eth1")
	}
	if w.IfName != "" {
		if err := cni.ConfigError("--ifname", cni.CheckIfName(w.IfName)); err != nil {
			return err
		}
	}
	if w.MAC != "" {
		if _, err := cni.ParseMAC(w.MAC); err != nil {
			return cni.ConfigError("--mac", err)
		}
	}
	if !cni.IsNetNSAt(w.NetNS) {
		return cni.ConfigErrorf("--netns: %s is not a network namespace; make one with ip netns add NAME", w.NetNS)
	}
	if isOwn(w.NetNS) {
		return cni.ConfigErrorf("--netns: %s is the network namespace of the host itself; name a container's, or make one with ip netns add NAME", w.NetNS)
	}
	return nil
}

// isOwn says whether the path is the namespace in which trestle runs.
func isOwn(netns string) bool {
	that, err := os.Stat(netns)
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/thread-self/ns/net")
	return err == nil && os.SameFile(own, that)
}

// ask passes addresses and MAC in the way that the network's plugins read: as capabilities, if
// they declare these, or else in CNI_ARGS, which is older and can hold only one address.
func (w Wish) ask(list network.List, snapshot *inventory.Snapshot, rt *libcni.RuntimeConf) error {
	has := map[string]bool{}
	for _, plugin := range list.Plugins {
		for capability, declared := range plugin.Network.Capabilities {
			has[capability] = has[capability] || declared
		}
	}
	for _, text := range w.IPs {
		if err := checkAddress(text, list.Name, snapshot); err != nil {
			return err
		}
	}
	switch {
	case len(w.IPs) > 0 && has["ips"]:
		rt.CapabilityArgs["ips"] = w.IPs
	case len(w.IPs) > 1:
		return cni.ConfigErrorf(`--ip: network %s takes one address; give it "capabilities": {"ips": true} in %s to ask for several`, list.Name, list.File)
	case len(w.IPs) == 1:
		rt.Args = append(rt.Args, [2]string{"IP", w.IPs[0]})
	}
	switch {
	case w.MAC != "" && has["mac"]:
		rt.CapabilityArgs["mac"] = w.MAC
	case w.MAC != "":
		rt.Args = append(rt.Args, [2]string{"MAC", w.MAC})
	}
	return nil
}

// checkAddress refuses an address that the network cannot lease, or that a container has.
func checkAddress(text, name string, snapshot *inventory.Snapshot) error {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return cni.ConfigErrorf("--ip: %q is not an address", text)
	}
	n, ok := snapshot.NetworkOf(name)
	if !ok || len(n.Pools) == 0 {
		return nil // the IPAM plugin checks it
	}
	var subnets []string
	for _, pool := range n.Pools {
		subnets = append(subnets, pool.Subnet.String())
	}
	i := slices.IndexFunc(n.Pools, func(p inventory.Pool) bool { return p.Subnet.Contains(address) })
	switch {
	case i < 0:
		return cni.ConfigErrorf("--ip: %s is in no subnet of network %s (%s)", address, name, strings.Join(subnets, ", "))
	case !n.Pools[i].Range.Leasable(address):
		return cni.ConfigErrorf("--ip: network %[2]s does not give %[1]s to containers: it is the gateway, an end of %[3]s, outside the range, or excluded", address, name, n.Pools[i].Subnet)
	}
	for _, a := range snapshot.On(name) {
		if a.State != inventory.Dead && slices.Contains(a.Addresses, address) {
			return cni.ConfigErrorf("--ip: %s is taken by container %s; choose another, or leave it out", address, a.Container)
		}
	}
	return nil
}

// add runs the chain of plugins. After a failure it sends DEL, as a runtime does (CNI spec,
// "Deriving runtime errors"), also after an interrupt.
func (r Runtime) add(ctx context.Context, list network.List, rt *libcni.RuntimeConf) (*types100.Result, error) {
	lock, err := network.LockShared()
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Unlock() }() // from here on the attachment keeps the network from being removed
	if _, err := os.Stat(list.File); err != nil {
		return nil, fmt.Errorf("the network was removed just now: %w", err)
	}
	if err := nameInterface(rt); err != nil {
		return nil, err
	}
	if _, err := cachedOf(cni.Owner{Network: list.Name, ContainerID: rt.ContainerID, IfName: rt.IfName}); err != nil {
		return nil, err
	}
	chain := libcni.NewCNIConfig(r.Plugins, nil)
	answer, err := chain.AddNetworkList(ctx, list.NetworkConfigList, rt)
	if err == nil {
		return types100.NewResultFromResult(answer)
	}
	undo := chain.DelNetworkList(context.WithoutCancel(ctx), list.NetworkConfigList, rt)
	if undo != nil {
		undo = fmt.Errorf("and detach it again: %w", undo)
	}
	return nil, errors.Join(plain(err), undo)
}

// plain is a plugin's error without what libcni adds to it. An error about the configuration,
// which contains the wish, stays a user's mistake.
func plain(err error) error {
	var said *types.Error
	if !errors.As(err, &said) {
		return err
	}
	text := said.Msg
	if text == "" {
		text = fmt.Sprintf("%v code %d, and no message", err, said.Code) // libcni's text ends with a colon
	}
	if said.Details != "" {
		text += "; " + said.Details
	}
	if said.Code == uint(cni.CodeConfig) {
		return cni.ConfigErrorf("%s", text)
	}
	return errors.New(text)
}

func attachedOf(name string, rt *libcni.RuntimeConf, result *types100.Result, ports []inventory.Published) Attached {
	a := Attached{Network: name, Container: rt.ContainerID, IfName: rt.IfName, NetNS: rt.NetNS, Ports: ports, DNS: result.DNS}
	for _, i := range result.Interfaces {
		if i.Sandbox != "" && i.Name == rt.IfName {
			a.MAC = i.Mac
		}
	}
	for _, ip := range result.IPs {
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			continue
		}
		ones, _ := ip.Address.Mask.Size()
		a.Addresses = append(a.Addresses, netip.PrefixFrom(address.Unmap(), ones))
		if gateway, ok := netip.AddrFromSlice(ip.Gateway); ok {
			a.Gateways = append(a.Gateways, gateway.Unmap())
		}
	}
	return a
}

// Del detaches one attachment, whichever suite made it. It needs no network namespace, and no
// list if Trestle's plugins made the attachment.
func (r Runtime) Del(ctx context.Context, a inventory.Attachment) error {
	chain := libcni.NewCNIConfig(r.Plugins, nil)
	rt := &libcni.RuntimeConf{ContainerID: a.Container, NetNS: a.NetNS, IfName: a.IfName}
	var config *libcni.NetworkConfigList
	if list, ok := network.Find(r.Lists, a.Network); ok {
		config = list.NetworkConfigList
	}
	cached, err := cachedOf(cni.Owner{Network: a.Network, ContainerID: a.Container, IfName: a.IfName})
	if err != nil {
		return fmt.Errorf("detach %s from network %s: %w", a.Container, a.Network, err)
	}
	rt.Args, rt.CapabilityArgs = cached.CNIArgs, cached.CapabilityArgs
	if of, err := libcni.NetworkConfFromBytes(cached.Config); err == nil {
		config = of // the list at the ADD, with the plugins that ran
	}
	if !cni.IsNetNSAt(rt.NetNS) {
		rt.NetNS = ""
	}
	if config == nil {
		former, err := Former(a.Network)
		if err != nil {
			return err
		}
		config = former.NetworkConfigList
	}
	if err := chain.DelNetworkList(ctx, config, rt); err != nil {
		return fmt.Errorf("detach %s from network %s: %w", a.Container, a.Network, plain(err))
	}
	return nil
}

// Former is a list for a network that has none any more. It only names Trestle's plugins,
// which find by the network's name what its attachments have.
func Former(name string) (network.List, error) {
	type plugin struct {
		Type string `json:"type"`
	}
	data, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": name,
		"plugins": []plugin{{"bridge"}, {"portmap"}, {"firewall"}, {"bandwidth"}, {"tuning"}},
	})
	if err != nil {
		return network.List{}, err
	}
	config, err := libcni.NetworkConfFromBytes(data)
	return network.List{File: "no list", NetworkConfigList: config}, err
}
