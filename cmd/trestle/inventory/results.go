package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// cached is an attachment in libcni's cache (its cachedInfo, version 1). libcni's
// GetCachedAttachments would list them, but without the result.
type cached struct {
	Kind           string         `json:"kind"`
	ContainerID    string         `json:"containerId"`
	IfName         string         `json:"ifName"`
	NetworkName    string         `json:"networkName"`
	NetNS          string         `json:"netns"`
	CNIArgs        [][2]string    `json:"cniArgs"`
	CapabilityArgs capabilityArgs `json:"capabilityArgs"`
	Result         cachedResult   `json:"result"`
}

type capabilityArgs struct {
	PortMappings []cachedMapping `json:"portMappings"`
}

type cachedMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

type cachedResult struct {
	Interfaces []struct {
		Name    string `json:"name"`
		MAC     string `json:"mac"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
	IPs []struct {
		Address string `json:"address"`
	} `json:"ips"`
}

// results reads the cache of runtimes that use libcni with its default directory.
func (t *taking) results() {
	entries, err := os.ReadDir(t.source.Results)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.problem(fmt.Errorf("look into the cache of results: %w", err))
	}
	for _, entry := range entries {
		path := filepath.Join(t.source.Results, entry.Name())
		data, err := rawfile.Read(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		var c cached
		if err == nil {
			err = cni.Unmarshal(data, &c)
		}
		if err != nil {
			t.problem(fmt.Errorf("cached result: %s: %w", path, err))
			continue
		}
		if c.NetworkName == "" || c.ContainerID == "" || c.IfName == "" {
			continue
		}
		a := t.at(cni.Owner{Network: c.NetworkName, ContainerID: c.ContainerID, IfName: c.IfName})
		a.fill(c)
		if info, err := entry.Info(); err == nil {
			a.note("", info.ModTime())
		}
	}
}

// fill adds what the runtime knows: addresses if no lease has them, names of links, and
// the ports that were asked for.
func (a *Attachment) fill(c cached) {
	a.Evidence.Cache = true
	a.NetNS = c.NetNS
	a.Pod, a.Name = namesOf(c.CNIArgs)
	for _, ip := range c.Result.IPs {
		if p, err := netip.ParsePrefix(ip.Address); err == nil {
			a.addAddress(p.Addr().Unmap())
		}
	}
	for _, i := range c.Result.Interfaces {
		switch {
		case i.Sandbox != "" && i.Name == c.IfName:
			a.MAC = i.MAC
		case i.Sandbox == "" && strings.HasPrefix(i.Name, "veth"):
			a.HostLink = i.Name // if there is such a link; see aliases
		}
	}
	for _, m := range c.CapabilityArgs.PortMappings {
		for _, address := range a.Addresses {
			if port, ok := m.to(address); ok && !slices.Contains(a.Ports, port) {
				a.Ports = append(a.Ports, port)
			}
		}
	}
}

// to is the mapping to one of the container's addresses; ok is false for an address of
// the other family, and if it is not a valid mapping.
func (m cachedMapping) to(address netip.Addr) (port Port, ok bool) {
	host := netip.IPv4Unspecified()
	if address.Is6() {
		host = netip.IPv6Unspecified()
	}
	if asked, err := netip.ParseAddr(m.HostIP); err == nil {
		host = asked.Unmap()
	}
	isPort := func(n int) bool { return n > 0 && n <= 65535 }
	if host.Is4() != address.Is4() || !isPort(m.HostPort) || !isPort(m.ContainerPort) {
		return Port{}, false
	}
	return Port{
		Protocol:  strings.ToLower(cmp.Or(m.Protocol, "tcp")),
		Host:      netip.AddrPortFrom(host, uint16(m.HostPort)),
		Container: netip.AddrPortFrom(address, uint16(m.ContainerPort)),
	}, true
}

// namesOf reads CNI_ARGS: the pod's name from Kubernetes' runtimes, or the container's name
// from nerdctl.
func namesOf(args [][2]string) (pod, name string) {
	values := map[string]string{}
	for _, arg := range args {
		values[arg[0]] = arg[1]
	}
	if podName := values["K8S_POD_NAME"]; podName != "" {
		pod = values["K8S_POD_NAMESPACE"] + "/" + podName
	}
	return pod, values["NERDCTL_CNI_DHCP_HOSTNAME"]
}
