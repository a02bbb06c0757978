// Package tuning is the tuning plugin: it changes settings of an interface that
// an earlier plugin of the list made, and of its network namespace.
package tuning

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/tuning"
)

// Plugin wires the verbs.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "tuning", EntersNetNS: true, ReadsArgs: true,
		Add: add, Del: del, Check: check, GC: gc, Status: status,
	}
}

// parse reads what is to be tuned. What an administrator does not allow is
// refused before anything is done.
func parse(r *cni.Request) (tuning.Config, error) {
	config, err := tuning.ParseConfig(r)
	if err != nil {
		return config, err
	}
	return config, config.CheckAllowed(tuning.AllowList)
}

func store(c tuning.Config) tuning.Store {
	return tuning.OpenStore(c.DataDir, tuning.DefaultIndexDir)
}

func add(r *cni.Request) (result types.Result, err error) {
	config, err := parse(r)
	if err != nil {
		return nil, err
	}
	prev, err := r.PrevResult()
	if err != nil {
		return nil, err
	}
	unchanged, err := r.PassThrough() // refuses a missing prevResult
	if err != nil {
		return nil, err
	}
	sandbox, err := tuning.FindSandbox(r.NetNS)
	if err != nil {
		return nil, err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	if err := store(config).Apply(r.Owner, config.Settings, sandbox, &undo); err != nil {
		return nil, err
	}
	if config.Settings.Amend(prev, r.Owner.IfName) {
		return prev, nil
	}
	return unchanged, nil
}

func del(r *cni.Request) error {
	config, _ := tuning.ParseConfig(r) // unsound where the network was edited since; DataDir will do
	return store(config).Restore(r.Owner, r.NetNS)
}

func check(r *cni.Request) error {
	config, err := parse(r)
	if err != nil {
		return err
	}
	if _, err := r.PassThrough(); err != nil {
		return err
	}
	sandbox, err := tuning.FindSandbox(r.NetNS)
	if err != nil {
		return err
	}
	diffs, err := tuning.Diff(config.Settings, r.Owner.IfName, sandbox)
	for _, d := range diffs {
		err = errors.Join(err, cni.MismatchErrorf("%s", d))
	}
	return err
}

func gc(r *cni.Request) error {
	valid, err := r.Valid()
	if err != nil {
		return err
	}
	config, _ := tuning.ParseConfig(r) // as for DEL
	return store(config).GC(r.Owner.Network, valid)
}

// status says whether the configuration could be served on this host.
func status(r *cni.Request) error {
	_, err := parse(r)
	return err
}
