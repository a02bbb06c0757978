// Package tuning is the tuning plugin: it changes settings of an interface that an earlier
// plugin of the list has made, and sysctls of its network namespace. It only wires pkg/tuning.
package tuning

import (
	"errors"
	"net"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/pkg/tuning"
)

// Plugin is the tuning plugin.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "tuning", EntersNetNS: true, ReadsArgs: true, Keys: tuning.Keys, Validate: cni.Validates(parse),
		Add: add, Del: del, Check: check,
		States: []cni.State{{Package: "pkg/tuning", What: "settings, and what was before them", GC: gc, Status: status}},
	}
}

// parse reads the configuration, and refuses sysctls that the administrator's list does not
// allow.
func parse(r *cni.Request) (tuning.Config, error) {
	config, err := tuning.ParseConfig(r)
	if err != nil {
		return config, err
	}
	return config, config.CheckAllowed(tuning.AllowList)
}

func store(c tuning.Config) tuning.Store {
	return tuning.OpenStore(record.Open(record.DefaultDir), c.DataDir)
}

func add(r *cni.Request) (result types.Result, err error) {
	config, err := parse(r)
	if err != nil {
		return nil, err
	}
	prev, err := r.RequirePrevResult()
	if err != nil {
		return nil, err
	}
	unchanged, err := r.PassThrough()
	if err != nil {
		return nil, err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	hostVeth, err := store(config).Add(r.Owner, config.Settings, r.NetNS, &undo)
	if err != nil {
		return nil, err
	}
	if mac := config.Settings.MAC(); mac != nil {
		// an error is ignored: neighbours ask again when their entries expire
		_ = announce(r, mac, prev)
	}
	if config.Settings.Amend(prev, r.Owner.IfName, hostVeth) {
		return prev, nil
	}
	return unchanged, nil
}

// announce tells the neighbours the new MAC of the container's addresses. Without it they would
// go on sending to the MAC of an address's last user.
func announce(r *cni.Request, mac net.HardwareAddr, prev *cni.Result) error {
	link := bridge.Interface{Name: r.Owner.IfName, MAC: mac, Up: true}
	for _, a := range cni.AddressesOf(prev, r.Owner.IfName) {
		link.Announce = append(link.Announce, a.Addr())
	}
	return link.AnnounceIn(r.NetNS)
}

func del(r *cni.Request) error {
	config, _ := tuning.ParseConfig(r) // even an invalid one has the DataDir
	return store(config).Release(r.Owner, r.NetNS)
}

func check(r *cni.Request) error {
	config, err := parse(r)
	if err != nil {
		return err
	}
	if _, err := r.RequirePrevResult(); err != nil {
		return err
	}
	diffs, err := store(config).Diff(r.Owner, config.Settings, r.NetNS)
	return errors.Join(err, cni.Mismatches(diffs))
}

func gc(r *cni.Request, valid cni.Valid) error {
	config, _ := tuning.ParseConfig(r) // as for DEL
	return store(config).GC(r.Owner.Network, valid)
}

func status(*cni.Request) error { return record.Open(record.DefaultDir).Status() }
