// Package firewall is the firewall plugin: for an interface that an earlier plugin of the list
// has made, it enforces the network's policy, and lets the container's packets through other
// firewalls. It only wires pkg/firewall.
package firewall

import (
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/firewall"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Plugin is the firewall plugin.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "firewall", Keys: firewall.Keys, Validate: cni.Validates(firewall.ParseConfig),
		Add: add, Del: del, Check: check,
		States: []cni.State{{Package: "pkg/firewall", What: "policies, and rules that let through", GC: gc, Status: status, Restore: restore}},
	}
}

func open() *firewall.Host { return firewall.Open(record.Open(record.DefaultDir)) }

// plan makes the rules of configuration and prevResult.
func plan(r *cni.Request, host *firewall.Host) (firewall.Rules, error) {
	config, err := firewall.ParseConfig(r)
	if err != nil {
		return firewall.Rules{}, err
	}
	prev, err := r.RequirePrevResult()
	if err != nil {
		return firewall.Rules{}, err
	}
	return host.Plan(config, prev)
}

func add(r *cni.Request) (result types.Result, err error) {
	host := open()
	defer host.Close()
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

// del goes by the record; only without one by configuration and prevResult.
func del(r *cni.Request) (err error) {
	host := open()
	defer host.Close()
	warn := func(err error) { fmt.Fprintf(os.Stderr, "firewall: %s: left for GC: %v\n", r, err) }
	found, err := host.Release(r.Owner, warn)
	if err != nil || found {
		return err
	}
	config, _ := firewall.ParseConfig(r) // of an invalid one, what could be read
	prev, _ := r.PrevResult()            // nil if it cannot be read
	if err := host.ReleaseUnrecorded(r.Owner, config, prev); err != nil {
		warn(err)
	}
	return nil
}

func check(r *cni.Request) (err error) {
	host := open()
	defer host.Close()
	rules, err := plan(r, host)
	if err != nil {
		return err
	}
	diffs, err := host.Diff(r.Owner, rules)
	return errors.Join(err, cni.Mismatches(diffs))
}

func gc(r *cni.Request, valid cni.Valid) error {
	host := open()
	defer host.Close()
	return host.GC(r.Owner.Network, valid)
}

func status(r *cni.Request) error {
	config, err := firewall.ParseConfig(r)
	if err != nil {
		return err
	}
	host := open()
	defer host.Close()
	return errors.Join(record.Open(record.DefaultDir).Status(), host.Status(config))
}

func restore(done *cni.Restored) error {
	host := open()
	defer host.Close()
	return host.Restore(done)
}
