// Package static is the static plugin: an IPAM plugin that gives out the
// addresses that the configuration or the runtime names.
package static

import (
	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/static"
)

// Plugin wires the commands. Nothing is kept of an ADD, so that DEL and GC have
// nothing to free.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "static", ReadsArgs: true, Keys: static.Keys, Validate: validate,
		Add: add, Del: func(*cni.Request) error { return nil }, Check: check,
	}
}

func add(r *cni.Request) (types.Result, error) {
	config, err := static.ParseConfig(r)
	if err != nil {
		return nil, err
	}
	return config.Result(), nil
}

func check(r *cni.Request) error {
	config, err := static.ParseConfig(r)
	if err != nil {
		return err
	}
	prev, err := r.RequirePrevResult()
	if err != nil {
		return err
	}
	return cni.Mismatches(config.Diff(prev))
}

func validate(r *cni.Request) error {
	_, err := static.ParseConfig(r)
	return err
}
