package bridge

import (
	"errors"
	"net/netip"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/translator"
)

// translation is the NAT that a configuration asks for: the network's masquerade and, if the
// configuration declares that capability, the container's port mappings, for which portmap
// then need not be executed.
type translation struct {
	masquerade bool
	backend    nat.Backend
	policy     nat.Masquerade // without the subnets, which come with the lease
	ports      nat.PortSettings
	conn       *nft.Conn
	host       *nat.Host
}

// natWire is the JSON of the keys for masquerade.
type natWire struct {
	IPMasq        bool                 `json:"ipMasq"`
	IPMasqBackend string               `json:"ipMasqBackend"`
	Masquerade    nat.MasqueradeConfig `json:"masquerade"`
}

func parseNAT(r *cni.Request) (translation, error) {
	var wire natWire
	decodeErr := r.Decode(&wire)
	backend, backendErr := nat.ParseBackend(wire.IPMasqBackend)
	policy, policyErr := wire.Masquerade.Of(nil)
	ports, portsErr := nat.ReadPorts(r)
	if ports.Backend == nat.Auto {
		ports.Backend = backend
	}
	t := translation{masquerade: wire.IPMasq, backend: backend, policy: policy, ports: ports}
	t.conn, t.host = translator.Open()
	if decodeErr != nil {
		return t, errors.Join(decodeErr, portsErr) // what could not be read is no further mistake
	}
	return t, errors.Join(cni.ConfigError("ipMasqBackend", backendErr), policyErr, portsErr)
}

// attachment is the NAT for the plan's addresses.
func (t translation) attachment(r *cni.Request, s bridge.State) (nat.Attachment, error) {
	a := nat.Attachment{Owner: r.Owner, MasqueradeBackend: t.backend, PortsBackend: t.ports.Backend}
	masquerade := t.policy
	var addresses []netip.Prefix
	for _, address := range s.Container.Addresses {
		addresses = append(addresses, address.Prefix)
		masquerade.Prefixes = append(masquerade.Prefixes, address.Prefix.Masked())
	}
	if t.masquerade && len(addresses) > 0 {
		a.Masquerade = &masquerade
	}
	if !t.ports.Any() {
		return a, nil
	}
	ports, err := t.ports.For(addresses, nil)
	for _, gateway := range s.Bridge.Gateways {
		ports.Bridge = s.Bridge.GatewayName()
		if gateway.Addr().Is4() && !ports.HostAddress.IsValid() {
			ports.HostAddress = gateway.Addr()
		}
	}
	a.Ports = &ports
	return a, err
}

// add makes the attachment's masquerade and port mappings, and also in the same transaction.
func (t translation) add(r *cni.Request, s bridge.State, also nat.Also, undo *cni.Undo) error {
	a, err := t.attachment(r, s)
	if err != nil {
		return err
	}
	a.Also = also
	return t.apply(r, a, undo)
}

func (t translation) apply(r *cni.Request, a nat.Attachment, undo *cni.Undo) (err error) {
	if a.Masquerade == nil && a.Ports == nil && a.Also.Changes == nil {
		return nil
	}
	if a.Stamp, err = record.NewStamp(r.NetNS); err != nil {
		return err
	}
	return t.host.Add(a, undo)
}

// spoofCheck is the change that makes the MAC check of the container's port; nothing if the
// plan has none.
func (t translation) spoofCheck(r *cni.Request, s *bridge.State, undo *cni.Undo) nat.Also {
	if !s.Port.SpoofCheck {
		return nat.Also{}
	}
	undo.Push("stop checking MACs of "+s.Port.Name, func() error {
		return translator.WithSpoofChecks(t.conn, func(checks bridge.SpoofChecks) error { return checks.Remove(r.Owner) })
	})
	return nat.Also{Changes: func() (nft.Changes, error) {
		return t.spoofChecks().Add(r.Owner, s.Port.Name, s.Container.MAC)
	}}
}

func (t translation) spoofChecks() bridge.SpoofChecks { return translator.SpoofChecks(t.conn) }

func (t translation) noSpoofCheck(o cni.Owner) nat.Also {
	return nat.Also{
		Changes: func() (nft.Changes, error) { return t.spoofChecks().Release(o) },
		Done:    func() error { return t.spoofChecks().Forget(o) },
	}
}

// del removes the owner's rules, and those that the reference plugins made for it, which it
// finds by the addresses of prevResult.
func (t translation) del(r *cni.Request, config bridge.Config) error {
	var referenceErr error
	if t.masquerade {
		referenceErr = t.host.ReleaseReference(r.Owner, translator.AddressesOf(r))
	}
	var also nat.Also
	checked, err := t.spoofChecks().MayHave(r.Owner)
	if checked || config.MACSpoofCheck {
		also = t.noSpoofCheck(r.Owner)
	}
	known, knownErr := t.host.Known(r.Owner)
	err = errors.Join(referenceErr, err, knownErr)
	if !known && !t.masquerade && !t.ports.Any() && also.Changes == nil {
		return err // without opening a socket, for a network without NAT
	}
	if !known {
		err = errors.Join(err, t.host.ReleaseLost(r.Owner, t.ports))
	}
	return errors.Join(err, t.host.Release(r.Owner, also))
}

func (t translation) check(r *cni.Request, s bridge.State) error {
	a, err := t.attachment(r, s)
	if err != nil {
		return err
	}
	differences, err := t.host.Diff(a)
	if s.Port.SpoofCheck {
		err = errors.Join(err, translator.WithSpoofChecks(t.conn, func(checks bridge.SpoofChecks) error {
			more, err := checks.Diff(r.Owner, s.Port.Name, s.Container.MAC)
			differences = append(differences, more...)
			return err
		}))
	}
	return errors.Join(err, cni.Mismatches(differences))
}

// natStatus is an error if the kernel lacks what the configuration needs for NAT.
func natStatus(r *cni.Request) error {
	t, err := parseNAT(r)
	defer t.close()
	if err != nil {
		return err
	}
	var masquerade, ports error
	if t.masquerade {
		masquerade = t.host.Status(t.backend)
	}
	if mapsPorts(r) {
		ports = t.host.PortsStatus(t.ports.Backend)
	}
	return errors.Join(masquerade, ports)
}

// mapsPorts says whether the configuration declares the capability portMappings.
func mapsPorts(r *cni.Request) bool {
	var wire struct {
		Capabilities map[string]any `json:"capabilities"`
	}
	return r.Decode(&wire) == nil && wire.Capabilities["portMappings"] == true
}

// spoofChecks is the State of the MAC checks. They are in nftables whatever the backend of NAT,
// and outlive the link, which the kernel deletes with the container's namespace.
func spoofChecks() cni.State {
	return cni.State{
		Package: "pkg/bridge", What: "MAC checks",
		GC: func(*cni.Request, cni.Valid) error {
			host, err := bridge.OpenHost()
			if err != nil {
				return err
			}
			defer host.Close()
			return withSpoofChecks(func(checks bridge.SpoofChecks) error { return checks.Reap(host.HasLink) })
		},
		Status: func(r *cni.Request) error {
			config, err := bridge.ParseConfig(r)
			if err != nil || !config.MACSpoofCheck {
				return err
			}
			conn, host := translator.Open()
			defer conn.Close()
			return host.Status(nat.NFTables)
		},
		Restore: func(done *cni.Restored) error {
			return withSpoofChecks(func(checks bridge.SpoofChecks) error { return checks.Restore(done) })
		},
	}
}

// withSpoofChecks calls do with the MAC checks, over a connection of its own.
func withSpoofChecks(do func(bridge.SpoofChecks) error) error {
	conn, _ := translator.Open()
	defer conn.Close()
	return translator.WithSpoofChecks(conn, do)
}

func (t translation) close() {
	t.conn.Close()
}
