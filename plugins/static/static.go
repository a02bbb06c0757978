// Package static is the static plugin: an IPAM plugin that gives out the
// addresses that the configuration or the runtime names.
package static

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/static"
)

// Plugin wires the verbs. Nothing is kept of an ADD, so that DEL and GC have
// nothing to free.
func Plugin() cni.Plugin {
	nothing := func(*cni.Request) error { return nil }
	return cni.Plugin{
		Name: "static", ReadsArgs: true, Keys: static.Keys,
		Add: add, Del: nothing, Check: check, GC: nothing, Status: status,
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
	prev, err := r.PrevResult()
	if err != nil {
		return err
	}
	if prev == nil {
		return cni.ConfigErrorf("prevResult: missing; CHECK needs the result of the ADD")
	}
	return errors.Join(config.Diff(prev)...)
}

// status says whether the configuration is sound.
func status(r *cni.Request) error {
	_, err := static.ParseConfig(r)
	return err
}
