// Package runtimes finds the container runtimes of the host, and reads from their
// configuration where they take plugins and network lists from.
package runtimes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// Runtime is a runtime that is installed or configured.
type Runtime struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Newest is the newest version of CNI whose results it reads.
	Newest string `json:"newestCNI,omitempty"`
	// Files are the existing files of its configuration; later ones override earlier ones.
	Files []string `json:"files,omitempty"`
	// Plugins are the directories that it takes plugins from, in order.
	Plugins []string `json:"plugins"`
	// Lists are the directories of network lists.
	Lists []string `json:"lists"`
	// Network is the name of the network that a container gets by default; "" is the first
	// list's.
	Network string `json:"network,omitempty"`
	// Without is what the runtime uses instead of CNI; "" if it uses CNI.
	Without string `json:"without,omitempty"`
}

// kind is a kind of runtime: its defaults, and its configuration files.
type kind struct {
	name    string
	files   []string // patterns
	plugins []string
	lists   string
	network string
	// read applies a file to the runtime.
	read func([]byte, *Runtime) error
}

// kinds are the runtimes that use CNI, with their defaults (containerd: docs/cri/config.md;
// CRI-O: crio.conf(5); podman: containers.conf(5); nerdctl: docs/config.md).
var kinds = []kind{
	{
		"containerd",
		[]string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml"},
		[]string{"/opt/cni/bin"},
		"/etc/cni/net.d", "", readContainerd,
	},
	{
		"crio",
		[]string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"},
		[]string{"/opt/cni/bin"},
		"/etc/cni/net.d", "", readCRIO,
	},
	{
		"podman",
		[]string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf", "/etc/containers/containers.conf.d/*.conf"},
		[]string{"/usr/local/libexec/cni", "/usr/libexec/cni", "/usr/local/lib/cni", "/usr/lib/cni", "/opt/cni/bin"},
		"/etc/cni/net.d", "podman", readPodman,
	},
	{
		"nerdctl",
		[]string{"/etc/nerdctl/nerdctl.toml"},
		[]string{"/opt/cni/bin"},
		"/etc/cni/net.d", "bridge", readNerdctl,
	},
}

// All finds the runtimes. The errors name files that cannot be read.
func All(ctx context.Context) ([]Runtime, error) {
	var all []Runtime
	var failed []error
	versions := Installed(ctx)
	for _, k := range kinds {
		r := Runtime{Name: k.name, Plugins: k.plugins, Lists: []string{k.lists}, Network: k.network}
		failed = append(failed, k.configure(&r))
		i := slices.IndexFunc(versions, func(v Version) bool { return v.Name == k.name })
		if i >= 0 {
			r.Version, r.Newest = versions[i].Version, versions[i].Newest
		}
		if i >= 0 || len(r.Files) > 0 && k.name != "podman" { // other packages install podman's files as well
			all = append(all, r)
		}
	}
	return all, errors.Join(failed...)
}

func (k kind) configure(r *Runtime) error {
	var failed []error
	for _, pattern := range k.files {
		files, err := filepath.Glob(pattern)
		failed = append(failed, err)
		for _, file := range files {
			data, err := rawfile.Read(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err == nil {
				err = k.read(data, r)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("configuration of %s: %s: %w", k.name, file, err))
				continue
			}
			r.Files = append(r.Files, file)
		}
	}
	return errors.Join(failed...)
}

// set replaces the value, unless all of values are empty.
func set(to *[]string, values ...string) {
	given := slices.DeleteFunc(slices.Clone(values), func(s string) bool { return s == "" })
	if len(given) > 0 {
		*to = given
	}
}

// containerdCNI is the same in each version of the file, but at another path.
type containerdCNI struct {
	CNI struct {
		BinDir  string   `toml:"bin_dir"`
		BinDirs []string `toml:"bin_dirs"`
		ConfDir string   `toml:"conf_dir"`
	} `toml:"cni"`
}

func readContainerd(data []byte, r *Runtime) error {
	var config struct {
		Plugins struct {
			V1 containerdCNI `toml:"cri"`
			V2 containerdCNI `toml:"io.containerd.grpc.v1.cri"`
			V3 containerdCNI `toml:"io.containerd.cri.v1.runtime"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal(data, &config); err != nil {
		return err
	}
	for _, c := range []containerdCNI{config.Plugins.V1, config.Plugins.V2, config.Plugins.V3} {
		set(&r.Plugins, c.CNI.BinDir)
		set(&r.Plugins, c.CNI.BinDirs...)
		set(&r.Lists, c.CNI.ConfDir)
	}
	return nil
}

func readCRIO(data []byte, r *Runtime) error {
	var config struct {
		CRIO struct {
			Network struct {
				Default    string   `toml:"cni_default_network"`
				NetworkDir string   `toml:"network_dir"`
				PluginDirs []string `toml:"plugin_dirs"`
			} `toml:"network"`
		} `toml:"crio"`
	}
	if err := toml.Unmarshal(data, &config); err != nil {
		return err
	}
	n := config.CRIO.Network
	set(&r.Plugins, n.PluginDirs...)
	set(&r.Lists, n.NetworkDir)
	if n.Default != "" {
		r.Network = n.Default
	}
	return nil
}

func readPodman(data []byte, r *Runtime) error {
	var config struct {
		Network struct {
			Backend    string   `toml:"network_backend"`
			Default    string   `toml:"default_network"`
			ConfigDir  string   `toml:"network_config_dir"`
			PluginDirs []string `toml:"cni_plugin_dirs"`
		} `toml:"network"`
	}
	if err := toml.Unmarshal(data, &config); err != nil {
		return err
	}
	n := config.Network
	set(&r.Plugins, n.PluginDirs...)
	set(&r.Lists, n.ConfigDir)
	if n.Default != "" {
		r.Network = n.Default
	}
	if n.Backend != "" && n.Backend != "cni" {
		r.Without = n.Backend
	} else if n.Backend == "cni" {
		r.Without = ""
	}
	return nil
}

func readNerdctl(data []byte, r *Runtime) error {
	var config struct {
		Path        string `toml:"cni_path"`
		NetConfPath string `toml:"cni_netconfpath"`
	}
	if err := toml.Unmarshal(data, &config); err != nil {
		return err
	}
	set(&r.Plugins, config.Path)
	set(&r.Lists, config.NetConfPath)
	return nil
}
