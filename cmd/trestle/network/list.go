// Package network reads and writes network lists, the files that runtimes read, and finds
// free subnets for new ones.
package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// DefaultDir is where runtimes look for network lists.
const DefaultDir = "/etc/cni/net.d"

// List is a network list in a file.
type List struct {
	// File is its path.
	File string
	*libcni.NetworkConfigList
	// Mark is nil unless network create wrote the list.
	Mark *Mark
}

// Mark is the list's key "trestle", which only trestle reads; libcni does not pass it to plugins.
type Mark struct {
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Read reads the lists in the directories, in the order in which runtimes do: by file name,
// directory by directory. The errors name files that cannot be read; the other lists are
// returned nevertheless. A missing directory has no lists.
func Read(dirs []string) ([]List, error) {
	files, err := Files(dirs)
	var all []List
	failed := []error{err}
	for _, file := range files {
		list, err := ReadFile(file)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", file, err))
			continue
		}
		all = append(all, list)
	}
	return all, errors.Join(failed...)
}

// Files are the files that Read reads, in order.
func Files(dirs []string) ([]string, error) {
	var all []string
	var failed []error
	for _, dir := range dirs {
		files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
		if err != nil {
			failed = append(failed, fmt.Errorf("look for network lists: %w", err))
		}
		slices.Sort(files)
		all = append(all, files...)
	}
	return all, errors.Join(failed...)
}

// ReadFile reads one list, or a configuration of one plugin as those before CNI 1.0
// may be. What is no regular file is an error: libcni would wait for the other end of a FIFO.
func ReadFile(file string) (List, error) {
	data, err := rawfile.Read(file)
	if err != nil {
		return List{}, err
	}
	return Parse(file, data)
}

// Parse is ReadFile for what has been read of the file.
func Parse(file string, data []byte) (List, error) {
	if filepath.Ext(file) != ".conflist" {
		single, err := libcni.ConfFromBytes(data) //nolint:staticcheck // deprecated, and still what runtimes read
		if err != nil {
			return List{}, cni.Plain(err)
		}
		config, err := libcni.ConfListFromConf(single) //nolint:staticcheck // the same
		return List{File: file, NetworkConfigList: config}, cni.Plain(err)
	}
	config, err := libcni.NetworkConfFromBytes(data)
	if err == nil {
		err = addPluginFiles(config, filepath.Dir(file))
	}
	if err != nil {
		return List{}, cni.Plain(err)
	}
	var keys struct {
		Trestle *Mark `json:"trestle"`
	}
	if err := cni.Unmarshal(config.Bytes, &keys); err != nil {
		return List{}, err
	}
	return List{File: file, NetworkConfigList: config, Mark: keys.Trestle}, nil
}

// addPluginFiles adds the plugins that stand in files of their own, in a directory with the
// network's name beside the list (CNI spec, "loadOnlyInlinedPlugins"), as
// libcni.NetworkConfFromFile does.
func addPluginFiles(list *libcni.NetworkConfigList, dir string) error {
	if list.LoadOnlyInlinedPlugins {
		return nil
	}
	files, err := libcni.ConfFiles(filepath.Join(dir, list.Name), []string{".conf"})
	if err != nil {
		return fmt.Errorf("look for plugins beside the list: %w", err)
	}
	for _, file := range files {
		data, err := rawfile.Read(file)
		if err != nil {
			return err
		}
		plugin, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		list.Plugins = append(list.Plugins, plugin)
	}
	if len(list.Plugins) == 0 {
		return errors.New("there is no plugin in it")
	}
	return nil
}

// Find is the first list with that name, the one that a runtime uses.
func Find(lists []List, name string) (List, bool) {
	i := slices.IndexFunc(lists, func(l List) bool { return l.Name == name })
	if i < 0 {
		return List{}, false
	}
	return lists[i], true
}

// Unknown is the error for a network that is not among those that there are, of which it names
// some.
func Unknown(name string, all []string) error {
	if len(all) == 0 {
		return cni.ConfigErrorf("network %q: there is none; make one with trestle network create %s", name, name)
	}
	const most = 10
	all = slices.Compact(slices.Sorted(slices.Values(all))) // two files may have one name
	more := ""
	if len(all) > most {
		all, more = all[:most], fmt.Sprintf(" and %d more", len(all)-most)
	}
	return cni.ConfigErrorf("network %q: there is no network with that name; there are %s%s", name, strings.Join(all, ", "), more)
}

// Types are the plugins' names, in their order.
func (l List) Types() []string {
	var types []string
	for _, plugin := range l.Plugins {
		types = append(types, plugin.Network.Type)
	}
	return types
}

// Programs are the names of all plugins that the list needs, its IPAM plugin included, each once.
func (l List) Programs() []string {
	facts, _ := l.Facts() // an error is about other keys
	var names []string
	for _, name := range append(l.Types(), facts.IPAM) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Facts are the network's properties, from the configurations of the list's plugins.
type Facts struct {
	// Driver is the name of the first plugin, which makes the interface.
	Driver string
	// Bridge is the name of the bridge, if the driver has one.
	Bridge     string
	MTU        int
	Gateway    bool // the bridge has the gateway's address
	Masquerade bool
	// Ports says that some plugin maps host ports.
	Ports bool
	// IngressPolicy and Internal are the firewall plugin's; zero if the list has none.
	IngressPolicy string
	Internal      bool
	// IPAM is the name of the IPAM plugin; "" is none.
	IPAM string
	// DataDir is the directory of leases, if IPAM is host-local.
	DataDir string
	// Sets are host-local's ranges.
	Sets []ipam.Set
}

// wire has the keys of a plugin's configuration that Facts reads.
type wire struct {
	Bridge           string `json:"bridge"`
	MTU              int    `json:"mtu"`
	IsGateway        bool   `json:"isGateway"`
	IsDefaultGateway bool   `json:"isDefaultGateway"`
	IPMasq           bool   `json:"ipMasq"`
	IngressPolicy    string `json:"ingressPolicy"`
	Internal         bool   `json:"internal"`
	IPAM             struct {
		Type    string `json:"type"`
		DataDir string `json:"dataDir"`
	} `json:"ipam"`
}

// defaultBridge is the bridge plugin's default.
const defaultBridge = "cni0"

// Facts reads the plugins' configurations. With an error, it returns what could be read.
func (l List) Facts() (Facts, error) {
	var f Facts
	var failed []error
	for i, plugin := range l.Plugins {
		var w wire
		if err := cni.Unmarshal(plugin.Bytes, &w); err != nil {
			failed = append(failed, fmt.Errorf("plugins[%d]: %w", i, err))
			continue
		}
		f.Ports = f.Ports || plugin.Network.Capabilities["portMappings"]
		if plugin.Network.Type == "firewall" && f.IngressPolicy == "" {
			f.IngressPolicy, f.Internal = w.IngressPolicy, w.Internal
		}
		if i > 0 {
			continue
		}
		f.Driver, f.Bridge, f.MTU, f.IPAM = plugin.Network.Type, w.Bridge, w.MTU, w.IPAM.Type
		f.Gateway, f.Masquerade = w.IsGateway || w.IsDefaultGateway, w.IPMasq
		if f.Bridge == "" && f.Driver == "bridge" {
			f.Bridge = defaultBridge
		}
		if f.IPAM != "host-local" {
			continue
		}
		if f.DataDir = w.IPAM.DataDir; f.DataDir == "" {
			f.DataDir = ipam.DefaultDataDir
		}
		config, err := ipam.ParseConfig(l.request(plugin))
		f.Sets = config.Sets
		if err != nil {
			failed = append(failed, fmt.Errorf("plugins[%d].%w", i, err))
		}
	}
	return f, errors.Join(failed...)
}

// request is a plugin's configuration as a request, for parsers.
func (l List) request(plugin *libcni.PluginConfig) *cni.Request {
	return &cni.Request{Owner: cni.Owner{Network: l.Name}, Version: l.CNIVersion, Stdin: plugin.Bytes}
}

// Store is the network's store of leases; ok is false if the network does not use host-local.
func (l List) Store() (store *ipam.Store, ok bool, err error) {
	if len(l.Plugins) == 0 {
		return nil, false, nil
	}
	var w wire
	if err := json.Unmarshal(l.Plugins[0].Bytes, &w); err != nil || w.IPAM.Type != "host-local" {
		return nil, false, err
	}
	store, err = ipam.StoreOf(l.request(l.Plugins[0]))
	return store, err == nil, err
}
