// Package portmap is the portmap plugin: chained after a plugin that connects
// the container, it leads ports of the host to it.
package portmap

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/translator"
)

// Plugin wires the commands.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "portmap", Keys: nat.PortKeys, Validate: validate,
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

// del asks nothing of the configuration: the record of the mappings tells all.
// Where there is none, the reference plugin may have been here at the ADD, or the record
// was lost: then the host ports tell that are asked for still.
func del(r *cni.Request) error {
	conn, host := translator.Open()
	defer conn.Close()
	settings, _ := nat.ReadPorts(r) // a wrong one tells less
	return errors.Join(host.ReleaseReference(r.Owner, translator.AddressesOf(r)), host.ReleaseLost(r.Owner, settings), host.ReleasePorts(r.Owner))
}

func check(r *cni.Request) error {
	conn, host := translator.Open()
	defer conn.Close()
	a, err := read(r)
	if err != nil {
		return err
	}
	diffs, err := host.Check(a)
	return errors.Join(err, cni.Mismatches(diffs))
}

func validate(r *cni.Request) error {
	_, err := nat.ReadPorts(r)
	return err
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

// read is what ADD and CHECK work on: which ports lead to the container that
// prevResult tells of.
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
