package attach

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
)

// Scope is what GC may release.
type Scope int

// GC without a list of valid attachments takes what is provably dead; one with an empty
// list says that nobody is left on the network.
const (
	ProvablyDead Scope = iota
	Everything
)

// GC asks those of the list's plugins that are Trestle's, in whatever version the list says:
// 1.1.0 is the first that has GC. It goes on after a failure. asked are their names.
func (r Runtime) GC(ctx context.Context, list network.List, scope Scope) (asked []string, err error) {
	var failed []error
	for _, plugin := range list.Plugins {
		program, err := invoke.FindInPath(plugin.Network.Type, r.Plugins)
		if err != nil || !IsOurs(program) {
			continue // another's plugin might take a missing list for an empty one
		}
		config, err := r.gcConfig(list.Name, plugin, scope)
		if err == nil {
			err = r.ask(ctx, program, config)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %s: %w", list.File, plugin.Network.Type, plain(err)))
		}
		asked = append(asked, plugin.Network.Type)
	}
	return asked, errors.Join(failed...)
}

func (r Runtime) gcConfig(name string, plugin *libcni.PluginConfig, scope Scope) ([]byte, error) {
	keys := map[string]any{}
	if err := json.Unmarshal(plugin.Bytes, &keys); err != nil {
		return nil, err
	}
	keys["name"], keys["cniVersion"] = name, "1.1.0"
	if scope == Everything {
		keys["cni.dev/valid-attachments"] = []any{}
	}
	if ipam, err := invoke.FindInPath(plugin.Network.IPAM.Type, r.Plugins); err != nil || !IsOurs(ipam) {
		delete(keys, "ipam") // the plugin would execute it
	}
	return json.Marshal(keys)
}

func (r Runtime) ask(ctx context.Context, program string, config []byte) error {
	var stderr bytes.Buffer // printed only with an error
	args := &invoke.Args{Command: "GC", Path: strings.Join(r.Plugins, string(os.PathListSeparator))}
	_, err := (&invoke.RawExec{Stderr: &stderr}).ExecPlugin(ctx, program, config, args.AsEnv())
	return err
}

// IsOurs says whether the program is Trestle's plugin, of whatever version, under whatever
// name.
func IsOurs(program string) bool {
	resolved, err := filepath.EvalSymlinks(program)
	if err != nil {
		return false
	}
	info, err := buildinfo.ReadFile(resolved)
	return err == nil && info.Path == "github.com/trestle-cni/trestle/plugins"
}

// Former is a list for a network that has none any more, with Trestle's plugins in it:
// they find by the name alone what there is. bridge is the network's, if that is known.
func Former(name, bridge string) (network.List, error) {
	config, err := former(name, bridge)
	return network.List{File: "no list", NetworkConfigList: config}, err
}
