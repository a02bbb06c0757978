package attach

import (
	"debug/buildinfo"
	"path/filepath"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
)

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
