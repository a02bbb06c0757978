// Package portmap is the portmap plugin: it maps ports of the host to a container that an
// earlier plugin of the list has attached. It only wires pkg/nat.
package portmap

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/translator"
)

// Plugin is the portmap plugin.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "portmap", Keys: nat.PortKeys, Validate: cni.Validates(nat.ReadPorts),
		Add: add, Del: del, Check: check,
		States: []cni.State{translator.NAT(status)},
	}
}

func add(r *cni.Request) (result types.Result, err error) {
	conn, host := translator.Open()
	defer conn.Close()
	a, err := read(r)
	if err != nil {
		return nil, err
	}
	if a.Stamp, err = record.NewStamp(r.NetNS); err != nil {
		return nil, err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	if len(a.Ports.Mappings) == 0 {
		err = host.ReleasePorts(r.Owner)
	} else {
		err = host.Add(a, &undo)
	}
	if err != nil {
		return nil, err
	}
	return r.PassThrough()
}

// del goes by the record of the mappings. If there is none, because the reference plugin made
// them or /run was lost, it looks for the host ports of the configuration.
func del(r *cni.Request) error {
	conn, host := translator.Open()
	defer conn.Close()
	settings, _ := nat.ReadPorts(r) // of an invalid one, what could be read
	return errors.Join(host.ReleaseReference(r.Owner, translator.AddressesOf(r)), host.ReleaseLost(r.Owner, settings), host.ReleasePorts(r.Owner))
}

func check(r *cni.Request) error {
	conn, host := translator.Open()
	defer conn.Close()
	a, err := read(r)
	if err != nil {
		return err
	}
	diffs, err := host.Diff(a)
	return errors.Join(err, cni.Mismatches(diffs))
}

func status(r *cni.Request) error {
	settings, err := nat.ReadPorts(r)
	if err != nil {
		return err
	}
	conn, host := translator.Open()
	defer conn.Close()
	return host.PortsStatus(settings.Backend)
}

// read makes the port mappings of the configuration, to the addresses of prevResult.
func read(r *cni.Request) (nat.Attachment, error) {
	a := nat.Attachment{Owner: r.Owner, Ports: &nat.Ports{}}
	settings, err := nat.ReadPorts(r)
	if err != nil {
		return a, err
	}
	a.PortsBackend = settings.Backend
	prev, err := r.RequirePrevResult()
	if err != nil || !settings.Any() {
		return a, err
	}
	*a.Ports, err = settings.For(cni.AddressesOf(prev, r.Owner.IfName), cni.HostLinks(prev))
	return a, err
}
