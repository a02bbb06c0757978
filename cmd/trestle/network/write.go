package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Lock takes the lock of network lists exclusively. It is held while a network is created or
// removed, so that two at the same time do not choose the same subnet.
func Lock() (*flock.Lock, error) {
	return flock.Create(filepath.Join(record.DefaultDir, "networks.lock"), flock.Exclusive, flock.DefaultWait)
}

// LockShared takes that lock shared. It is held while a container is attached, so that its
// network is not removed meanwhile.
func LockShared() (*flock.Lock, error) {
	return flock.Create(filepath.Join(record.DefaultDir, "networks.lock"), flock.Shared, flock.DefaultWait)
}

// The keys of a list, in the order in which they are written.
type (
	wireList struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Trestle    Mark   `json:"trestle"`
		Plugins    []any  `json:"plugins"`
	}
	wireBridge struct {
		Type             string          `json:"type"`
		Bridge           string          `json:"bridge"`
		IsGateway        bool            `json:"isGateway,omitempty"`
		IsDefaultGateway bool            `json:"isDefaultGateway,omitempty"`
		IPMasq           bool            `json:"ipMasq,omitempty"`
		HairpinMode      bool            `json:"hairpinMode"`
		PortIsolation    bool            `json:"portIsolation,omitempty"`
		MTU              int             `json:"mtu,omitempty"`
		Capabilities     map[string]bool `json:"capabilities"`
		IPAM             wireIPAM        `json:"ipam"`
	}
	wireIPAM struct {
		Type    string        `json:"type"`
		Ranges  [][]wireRange `json:"ranges"`
		Exclude []string      `json:"exclude,omitempty"`
	}
	wireRange struct {
		Subnet  netip.Prefix `json:"subnet"`
		Start   netip.Addr   `json:"rangeStart,omitzero"`
		End     netip.Addr   `json:"rangeEnd,omitzero"`
		Gateway netip.Addr   `json:"gateway,omitzero"`
	}
	wirePortmap struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	wireFirewall struct {
		Type          string `json:"type"`
		IngressPolicy string `json:"ingressPolicy"`
		Internal      bool   `json:"internal,omitempty"`
	}
)

// cniVersion is one that containerd 1.6 and podman 4 read as well (see package conflist).
const cniVersion = "1.0.0"

// Config is the plan as a network list.
func (p Plan) Config(created time.Time) ([]byte, error) {
	bridge := wireBridge{
		Type: "bridge", Bridge: p.Bridge, IsGateway: p.Internal, IsDefaultGateway: !p.Internal, IPMasq: !p.Internal && !p.NoMasquerade,
		HairpinMode: true, PortIsolation: p.Isolate, MTU: p.MTU, Capabilities: map[string]bool{"ips": true, "mac": true},
		IPAM: wireIPAM{Type: "host-local", Exclude: p.Exclude},
	}
	for _, pool := range p.Pools {
		r := wireRange{Subnet: pool.Subnet, Gateway: pool.Gateway}
		if pool.Range.IsValid() && pool.Range != pool.Subnet {
			r.Start, r.End = pool.Range.Addr(), last(pool.Range)
		}
		bridge.IPAM.Ranges = append(bridge.IPAM.Ranges, []wireRange{r})
	}
	list := wireList{
		CNIVersion: cniVersion,
		Name:       p.Name,
		Trestle:    Mark{created.UTC().Truncate(time.Second), p.Labels},
		Plugins:    []any{bridge},
	}
	if !p.Internal {
		list.Plugins = append(list.Plugins, wirePortmap{"portmap", map[string]bool{"portMappings": true}})
	}
	if p.Ingress != Open || p.Internal {
		list.Plugins = append(list.Plugins, wireFirewall{"firewall", p.Ingress, p.Internal})
	}
	data, err := json.MarshalIndent(list, "", "  ")
	return append(data, '\n'), err
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	address, _ := netip.AddrFromSlice(raw) // raw has 4 or 16 bytes
	return address
}

// File is the path of a new network's list. containerd and CRI-O use only the first file in the
// directory, by name: the number keeps a new network from becoming that if there is another.
func File(dir, name string) string { return filepath.Join(dir, "90-"+name+".conflist") }

// Write creates the file atomically; an existing one is an error. Runtimes do not read the
// temporary file, by its name.
func Write(file string, config []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the directory of network lists: %w", err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), ".trestle-")
	if err != nil {
		return fmt.Errorf("write the network list: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(temporary.Name())) }()
	_, writeErr := temporary.Write(config)
	err = errors.Join(writeErr, temporary.Chmod(0o644), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Link(temporary.Name(), file)
	}
	if errors.Is(err, os.ErrExist) {
		return cni.ConfigErrorf("name: %s exists already; choose another name, or remove that file", file)
	}
	if err != nil {
		return fmt.Errorf("write the network list: %w", err)
	}
	return nil
}

// Check is the error that host-local would give for the list.
func Check(config []byte) error {
	parsed, err := libcni.NetworkConfFromBytes(config)
	if err == nil {
		_, err = List{NetworkConfigList: parsed}.Facts()
	}
	return err
}
