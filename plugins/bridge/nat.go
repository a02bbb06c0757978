package bridge

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
)

// translation is what a configuration says of NAT: the network's masquerade,
// and the container's port mappings where the configuration declares that
// capability, so that no portmap need be executed after us.
type translation struct {
	masquerade bool
	policy     nat.Masquerade // without the subnets, which the lease tells
	ports      nat.PortSettings
	host       *nat.Host
	// portHost has the port mappings: by the portmap plugin's key backend, or as host.
	portHost *nat.Host
}

func parseNAT(r *cni.Request) (translation, error) {
	var wire struct {
		IPMasq        bool                 `json:"ipMasq"`
		IPMasqBackend string               `json:"ipMasqBackend"`
		Masquerade    nat.MasqueradeConfig `json:"masquerade"`
	}
	decodeErr := r.Decode(&wire)
	backend, backendErr := nat.ParseBackend(wire.IPMasqBackend)
	if backendErr != nil {
		backendErr = cni.ConfigErrorf("ipMasqBackend: %w", backendErr)
	}
	policy, policyErr := wire.Masquerade.Of(nil)
	ports, portsErr := nat.ReadPorts(r)
	t := translation{masquerade: wire.IPMasq, policy: policy, ports: ports, host: nat.Open(nat.DefaultDir, backend)}
	t.portHost = t.host
	if ports.Backend != nat.Auto && ports.Backend != backend {
		t.portHost = nat.Open(nat.DefaultDir, ports.Backend)
	}
	return t, errors.Join(decodeErr, backendErr, policyErr, portsErr)
}

// rulesFor are the subnets to masquerade and the ports to map for an attachment.
func (t translation) rulesFor(s bridge.State) (nat.Masquerade, nat.Ports, error) {
	masquerade := t.policy
	var addresses []netip.Prefix
	for _, a := range s.Container.Addresses {
		addresses = append(addresses, a.Prefix)
		masquerade.Prefixes = append(masquerade.Prefixes, a.Prefix.Masked())
	}
	if !t.ports.Any() {
		return masquerade, nat.Ports{}, nil
	}
	ports, err := t.ports.For(addresses, []string{s.Port.Name})
	return masquerade, ports, err
}

func (t translation) masquerades(s bridge.State) bool {
	return t.masquerade && len(s.Container.Addresses) > 0
}

func (t translation) add(o cni.Owner, s bridge.State, undo *cni.Undo) error {
	masquerade, ports, err := t.rulesFor(s)
	if err != nil {
		return err
	}
	if t.masquerades(s) || t.ports.Any() {
		undo.Push("release masquerade and ports", func() error { return t.host.Release(o) })
	}
	if t.masquerades(s) {
		if err := t.host.AddMasquerade(o, masquerade); err != nil {
			return fmt.Errorf("masquerade: %w", err)
		}
	}
	if !t.ports.Any() {
		return nil
	}
	return t.portHost.AddPorts(o, ports)
}

// del frees what the owner has, also what the reference plugins made for it: the
// addresses by which that is told come from prevResult, where there is one.
func (t translation) del(r *cni.Request) error {
	var foreignErr error
	if t.masquerade {
		foreignErr = t.host.ReleaseForeign(r.Owner, addressesOf(r))
	}
	return errors.Join(foreignErr, t.host.Release(r.Owner))
}

// addressesOf are the container's addresses as far as prevResult tells; DEL does
// what it can without.
func addressesOf(r *cni.Request) []netip.Addr {
	prev, err := r.PrevResult()
	if err != nil || prev == nil {
		return nil
	}
	lease, err := bridge.ParseLease(prev, r.Owner.IfName)
	if err != nil {
		return nil
	}
	var addresses []netip.Addr
	for _, a := range lease.Addresses {
		addresses = append(addresses, a.Prefix.Addr())
	}
	return addresses
}

func (t translation) check(o cni.Owner, s bridge.State) error {
	masquerade, ports, err := t.rulesFor(s)
	if err != nil {
		return err
	}
	var differences []string
	if t.masquerades(s) {
		differences, err = t.host.CheckMasquerade(o, masquerade)
	}
	if t.ports.Any() {
		more, portsErr := t.portHost.CheckPorts(o, ports)
		differences, err = append(differences, more...), errors.Join(err, portsErr)
	}
	for _, d := range differences {
		err = errors.Join(err, cni.MismatchErrorf("%s", d))
	}
	return err
}

// status asks the kernel for what the configuration needs of it; macSpoofCheck is
// by nftables, too.
func (t translation) status(macSpoofCheck bool) error {
	var failed error
	if t.masquerade {
		failed = t.host.Status()
	}
	if macSpoofCheck {
		check := nat.Open(nat.DefaultDir, nat.NFTables)
		failed = errors.Join(failed, check.Status(), check.Close())
	}
	return failed
}

func (t translation) close() {
	_ = t.host.Close()     // what it had to say of changes it has said
	_ = t.portHost.Close() // likewise; closed twice where it is the same
}
