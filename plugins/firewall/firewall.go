// Package firewall is the firewall plugin: it lets an attachment that an earlier
// plugin of the list made through the host's firewall, and keeps containers from
// one another as the configuration says.
package firewall

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/firewall"
)

// Plugin wires the verbs.
func Plugin() cni.Plugin {
	return cni.Plugin{Name: "firewall", Add: add, Del: del, Check: check, GC: gc, Status: status}
}

func open() *firewall.Host { return firewall.OpenHost(firewall.DefaultDir) }

// plan reads the configuration and prevResult, which has to be there.
func plan(r *cni.Request, host *firewall.Host) (firewall.Rules, error) {
	config, err := firewall.ParseConfig(r)
	if err != nil {
		return firewall.Rules{}, err
	}
	prev, err := r.PrevResult()
	if err != nil {
		return firewall.Rules{}, err
	}
	if prev == nil {
		return firewall.Rules{}, cni.ConfigErrorf("prevResult: missing; this plugin comes after another one in the list of plugins")
	}
	return host.Plan(config, prev)
}

func add(r *cni.Request) (result types.Result, err error) {
	host := open()
	defer func() { err = errors.Join(err, host.Close()) }()
	rules, err := plan(r, host)
	if err != nil {
		return nil, err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	if err := host.Add(r.Owner, rules, &undo); err != nil {
		return nil, err
	}
	return r.PassThrough()
}

// del needs neither a sound configuration nor prevResult, but for what the
// reference plugin made before this one took its place.
func del(r *cni.Request) (err error) {
	host := open()
	defer func() { err = errors.Join(err, host.Close()) }()
	known, err := host.Known(r.Owner)
	if err != nil || known {
		return errors.Join(err, host.Release(r.Owner))
	}
	config, configErr := firewall.ParseConfig(r)
	prev, prevErr := r.PrevResult()
	if configErr != nil || prevErr != nil || prev == nil {
		return nil // which tell nothing of what the reference plugin made
	}
	return host.ReleaseForeign(config, prev)
}

func check(r *cni.Request) (err error) {
	host := open()
	defer func() { err = errors.Join(err, host.Close()) }()
	rules, err := plan(r, host)
	if err != nil {
		return err
	}
	diffs, err := host.Diff(r.Owner, rules)
	for _, d := range diffs {
		err = errors.Join(err, cni.MismatchErrorf("%s", d))
	}
	return err
}

func gc(r *cni.Request) (err error) {
	host := open()
	defer func() { err = errors.Join(err, host.Close()) }()
	valid, err := r.Valid()
	if err != nil {
		return err
	}
	return host.GC(r.Owner.Network, valid)
}

func status(r *cni.Request) (err error) {
	host := open()
	defer func() { err = errors.Join(err, host.Close()) }()
	config, err := firewall.ParseConfig(r)
	if err != nil {
		return err
	}
	return host.Status(config)
}
