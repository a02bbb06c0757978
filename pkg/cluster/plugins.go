package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// PluginTypes are the plugins that a network's list may have, in the list's order.
var PluginTypes = []string{"bridge", "bandwidth", "portmap", "firewall", "tuning"}

// ListVersions are the versions of the CNI spec that a network's list may have. Older ones have
// no CHECK.
var ListVersions = []string{"0.4.0", "1.0.0", "1.1.0"}

// Keys are keys of a plugin's configuration. Numbers stay as they were written.
type Keys map[string]any

// UnmarshalJSON reads numbers as json.Number: a float64 could not hold every rate.
func (k *Keys) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var all map[string]any
	err := decoder.Decode(&all)
	*k = all
	return err
}

// decided are the keys that no configuration may set, with what to do instead: those that the
// agent decides, and those that the runtime puts into every entry. A path without a plugin's
// name is of each plugin.
var decided = map[string]string{
	"type":                      "the key in plugins is the type; remove this one",
	"name":                      "it is the network's name; remove the key",
	"cniVersion":                "it is the whole list's; set cniVersion beside plugins",
	"prevResult":                "the runtime puts it in; remove the key",
	"runtimeConfig":             "the runtime puts it in; remove the key",
	"bridge.bridge":             "the bridge is tn-<network>; remove the key",
	"bridge.vlan":               "each network has a bridge of its own, on which nothing else is to be kept apart; remove the key",
	"bridge.mtu":                "the MTU is what the uplinks leave; set mtu beside networks",
	"tuning.mtu":                "the MTU is what the uplinks leave; set mtu beside networks",
	"bridge.ipam.type":          "it is host-local, whose leases the agent reads; remove the key",
	"bridge.ipam.dataDir":       "the agent reads the leases in the default directory; remove the key",
	"bridge.ipam.ranges":        subnetsAreDecided,
	"bridge.ipam.subnet":        subnetsAreDecided,
	"bridge.ipam.rangeStart":    subnetsAreDecided,
	"bridge.ipam.rangeEnd":      subnetsAreDecided,
	"bridge.ipam.gateway":       subnetsAreDecided,
	"bridge.masquerade.exclude": "it has the pools of all networks; remove the key",
}

const subnetsAreDecided = "each host has subnets of its own, from ipv4 and ipv6 of the network; remove the key"

// mustBeObjects are keys of which the agent decides a part, or that make the runtime refuse the
// whole list if they are of another type.
var mustBeObjects = []string{"capabilities", "bridge.ipam", "bridge.masquerade"}

// checkList checks what the configuration says of the network's list. The plugins themselves
// check the keys that they know.
func (n Network) checkList() error {
	if n.CNIVersion != "" && !slices.Contains(ListVersions, n.CNIVersion) {
		return fmt.Errorf("cniVersion: %q is none of %s; leave it out for 1.0.0", n.CNIVersion, strings.Join(ListVersions, ", "))
	}
	for _, plugin := range slices.Sorted(maps.Keys(n.Plugins)) {
		if !slices.Contains(PluginTypes, plugin) {
			return fmt.Errorf("plugins: %q is none of %s; correct the name, or remove it", plugin, strings.Join(PluginTypes, ", "))
		}
		if err := n.Plugins[plugin].check(plugin, ""); err != nil {
			return fmt.Errorf("plugins.%w", err)
		}
	}
	return nil
}

// check checks the keys at a path ("" or "ipam.") of a plugin's entry.
func (k Keys) check(plugin, path string) error {
	for _, key := range slices.Sorted(maps.Keys(k)) {
		at := path + key
		// plugins match keys regardless of case
		is := func(known string) bool {
			return strings.EqualFold(known, at) || strings.EqualFold(known, plugin+"."+at)
		}
		for known, instead := range decided {
			if is(known) {
				return fmt.Errorf("%s.%s: %s cannot be set here: %s", plugin, at, written(k[key]), instead)
			}
		}
		object, isObject := k[key].(map[string]any)
		if !isObject && slices.ContainsFunc(mustBeObjects, is) {
			return fmt.Errorf("%s.%s: %s is no object; write keys and values in braces, or remove it", plugin, at, written(k[key]))
		}
		if err := Keys(object).check(plugin, at+"."); err != nil {
			return err
		}
	}
	return nil
}

// written is a value as it is written in JSON.
func written(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value) // it was JSON
	}
	return string(text)
}
