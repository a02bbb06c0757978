package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// The networks' configurations for the runtime are ordinary network lists, which the
// reference plugins could run as well.

// bridgeOf is the name of a network's bridge.
func bridgeOf(network string) string { return "tn-" + network }

func bridgesOf(c cluster.Config) []string {
	var names []string
	for _, n := range c.Networks {
		names = append(names, bridgeOf(n.Name))
	}
	return names
}

func conflistPath(network string) string {
	return filepath.Join(conflistDir, "10-"+network+".conflist")
}

// marker is the key by which a list is recognized as ours.
const marker = "io.trestle.node"

// conflist is the list of one network, with this host's subnets, and with the keys that the
// configuration has for its plugins. Pods get the bandwidth plugin as well.
func conflist(s cluster.State, network cluster.Network, mtu int, forPods bool) ([]byte, error) {
	entries := entriesOf(s, network, mtu)
	var plugins []cluster.Keys
	for _, plugin := range cluster.PluginTypes {
		keys, named := network.Plugins[plugin]
		usual := plugin == "bridge" || plugin == "portmap" || plugin == "bandwidth" && forPods
		if named || usual {
			entry := merged(entries[plugin], keys)
			entry["type"] = plugin
			plugins = append(plugins, entry)
		}
	}
	list := map[string]any{
		"cniVersion": cmp.Or(network.CNIVersion, defaultVersion),
		"name":       network.Name,
		marker:       s.ID,
		"plugins":    plugins,
	}
	data, err := json.MarshalIndent(list, "", "  ")
	return append(data, '\n'), err
}

// defaultVersion is the lists' version of the CNI spec, which runtimes of any age understand.
const defaultVersion = "1.0.0"

// entriesOf are the keys of the list's plugins, where the configuration says nothing else.
func entriesOf(s cluster.State, network cluster.Network, mtu int) map[string]cluster.Keys {
	var ranges [][]map[string]string
	for _, s := range s.Subnets(network.Name) {
		ranges = append(ranges, []map[string]string{{"subnet": s.String()}})
	}
	return map[string]cluster.Keys{
		"bridge": {
			"bridge": bridgeOf(network.Name), "mtu": mtu,
			"isDefaultGateway": true, "hairpinMode": true, "ipMasq": true,
			"masquerade": map[string]any{"exclude": s.Config.Pools()}, // other hosts see the container's own address
			"ipam":       map[string]any{"type": "host-local", "ranges": ranges},
		},
		"bandwidth": {"capabilities": map[string]any{"bandwidth": true}},
		"portmap":   {"capabilities": map[string]any{"portMappings": true}},
	}
}

// merged are the entry's keys and these: objects are merged, any other value replaces that of
// the entry. A key is the same in any case, as for the plugins.
func merged(entry, keys map[string]any) cluster.Keys {
	all := cluster.Keys{}
	maps.Copy(all, entry)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		name := key
		for had := range all {
			if strings.EqualFold(had, key) {
				name = had
			}
		}
		if object, isObject := keys[key].(map[string]any); isObject {
			into, _ := all[name].(map[string]any)
			all[name] = map[string]any(merged(into, object))
		} else {
			all[name] = keys[key]
		}
	}
	return all
}

// writeConflists writes the lists that follow from the state, and removes those of networks
// that are gone. Each is replaced atomically and only if it differs: a runtime may read the
// directory at any moment. A list of somebody else's stays unchanged, and is an error.
func writeConflists(s cluster.State, mtu int, forPods bool) error {
	var failed error
	for _, n := range s.Config.Networks {
		if len(s.Subnets(n.Name)) < len(n.Pools()) {
			continue // this host lacks a subnet yet
		}
		data, err := conflist(s, n, mtu, forPods)
		if err == nil {
			err = replaceConflist(conflistPath(n.Name), data)
		}
		failed = errors.Join(failed, err)
	}
	return errors.Join(failed, withdrawConflists(func(name string) bool { _, kept := s.Config.Network(name); return !kept }))
}

func replaceConflist(path string, data []byte) error {
	had, err := rawfile.Read(path)
	if err == nil && slices.Equal(had, data) {
		return nil
	}
	if err == nil && !isOurs(had) {
		return fmt.Errorf("%s is somebody else's; rename that, or the network", path)
	}
	if err != nil && !isMissing(err) {
		return err
	}
	if err := cluster.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("write the network's configuration: %w", err)
	}
	return nil
}

func isOurs(data []byte) bool {
	var list map[string]json.RawMessage
	return json.Unmarshal(data, &list) == nil && list[marker] != nil
}

// withdrawConflists removes our lists of networks for which gone is true. Running containers
// stay; the runtime starts no more.
func withdrawConflists(gone func(network string) bool) error {
	var failed error
	for _, path := range lists() {
		data, err := rawfile.Read(path)
		name, _ := strings.CutSuffix(strings.TrimPrefix(filepath.Base(path), "10-"), ".conflist")
		if err != nil || !isOurs(data) || !gone(name) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// allNetworks makes withdrawConflists remove every list of ours.
func allNetworks(string) bool { return true }

func lists() []string {
	paths, _ := filepath.Glob(filepath.Join(conflistDir, "*.conf*")) // the only error is a bad pattern
	return paths
}

// clashing is an error if a subnet of another network list of this host overlaps the pools.
func clashing(pools []netip.Prefix) error {
	for _, path := range lists() {
		data, err := rawfile.Read(path)
		if err != nil || isOurs(data) {
			continue
		}
		var list any
		if json.Unmarshal(data, &list) != nil {
			continue // no runtime could use it
		}
		for _, subnet := range subnetsIn(list) {
			for _, pool := range pools {
				if pool.Overlaps(subnet) {
					return fmt.Errorf("pool %s overlaps subnet %s of %s; choose another pool, or remove that network", pool, subnet, path)
				}
			}
		}
	}
	return nil
}

// subnetsIn finds the values of "subnet", wherever they are.
func subnetsIn(value any) (found []netip.Prefix) {
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			found = append(found, subnetsIn(v)...)
		}
	case map[string]any:
		for key, v := range value {
			text, isText := v.(string)
			if p, err := netip.ParsePrefix(text); key == "subnet" && isText && err == nil {
				found = append(found, p.Masked())
			}
			found = append(found, subnetsIn(v)...)
		}
	}
	return found
}

// container is an attachment, with its address on one network.
type container = hosts.Container

// howMany counts the containers: one may have several addresses.
func howMany(all []container) string {
	ids := map[string]bool{}
	for _, c := range all {
		ids[c.ID] = true
	}
	if len(ids) == 1 {
		return "1 container has"
	}
	return fmt.Sprint(len(ids), " containers have")
}

// leases lists the containers with an address in the subnets, by host-local's files.
func leases(owned []cluster.Owned) ([]container, error) {
	var all []container
	seen := map[string]bool{}
	for _, o := range owned {
		if seen[o.Network] {
			continue
		}
		seen[o.Network] = true
		entries, err := os.ReadDir(filepath.Join(leaseDir, o.Network))
		if err != nil && !isMissing(err) {
			return nil, err
		}
		for _, e := range entries {
			addr, err := netip.ParseAddr(e.Name())
			if err != nil || !slices.ContainsFunc(owned, func(o cluster.Owned) bool { return o.Subnet.Contains(addr) }) {
				continue
			}
			data, err := rawfile.Read(filepath.Join(leaseDir, o.Network, e.Name()))
			if err != nil {
				continue // released meanwhile
			}
			id, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
			all = append(all, container{Network: o.Network, Address: addr, ID: strings.TrimSpace(id)})
		}
	}
	return all, nil
}
