// Package static is the static plugin: an IPAM plugin whose addresses are in the configuration,
// or come from the runtime. It only wires pkg/static.
package static

import (
	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/static"
)

// Plugin is the static plugin. ADD stores nothing, so DEL and GC have nothing to release.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "static", ReadsArgs: true, Keys: static.Keys, Validate: cni.Validates(static.ParseConfig),
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
