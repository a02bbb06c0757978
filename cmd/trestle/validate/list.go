package validate

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/tailscale/hujson"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// listKeys are the keys of the list itself (CNI spec 1.1, section 1, and libcni's), and
// those that trestle, trestle-node and nerdctl add.
func listKeys() []cni.Key {
	return []cni.Key{
		{Path: "cniVersion", Type: "string"},
		{Path: "cniVersions", Type: "list of string"},
		{Path: "name", Type: "string"},
		{Path: "disableCheck", Type: "any"}, // libcni takes text as well
		{Path: "disableGC", Type: "any"},
		{Path: "loadOnlyInlinedPlugins", Type: "boolean"},
		{Path: "plugins", Type: "list of object", Open: true},
		{Path: "trestle", Type: "object", Open: true},
		{Path: "io.trestle.node", Type: "string"}, // by which trestle-node recognizes its lists
		{Path: "nerdctlID", Type: "string"},
		{Path: "nerdctlLabels", Type: "object", Open: true},
	}
}

// list checks one file that is valid JSON.
func (r Rules) list(f *file) {
	if _, ok := f.root.Value.(*hujson.Object); !ok {
		f.at(0, "", "a network list is an object, {…}")
		return
	}
	entries, prefix := []hujson.Value{f.root}, ""
	if filepath.Ext(f.name) == ".conflist" {
		known{keys: listKeys(), rules: r}.object(f, f.root, place{})
		plugins, ok := member(f.root, "plugins")
		entries = elements(plugins)
		if _, fit := fits(plugins, "list of object"); !ok || fit && len(entries) == 0 { // of another type it is named already
			f.on("plugins", "a network list has plugins, and this one has none")
		}
		prefix = "plugins[%d]."
	}
	r.head(f)
	for i, entry := range entries {
		where := prefix
		if prefix != "" {
			where = fmt.Sprintf(prefix, i)
		}
		r.plugin(f, entry, where)
	}
	if list, err := network.Parse(f.name, f.data); err == nil {
		f.list = &list
	} else if len(f.problems) == 0 {
		f.at(0, "", "no runtime accepts this file: %v", err)
	}
}

// head checks name and versions.
func (r Rules) head(f *file) {
	name, _ := member(f.root, "name")
	if s, ok := text(name); !ok || s == "" {
		f.on("name", "missing: a network has a name")
	} else if utils.ValidateNetworkName(s) != nil {
		f.on("name", "%q: no runtime accepts this name; use letters and digits, with . _ - between them", s)
	}
	for _, v := range r.versionsOf(f) {
		for _, runtime := range r.Runtimes {
			if newer(v, runtime.Newest) {
				f.on("cniVersion", "%s cannot read results of %s; say %s", runtime, v, runtime.Newest)
			}
		}
	}
}

// versionsOf returns the versions of the list that exist.
func (r Rules) versionsOf(f *file) []string {
	at, ok := member(f.root, "cniVersion")
	s, isText := text(at)
	switch {
	case !ok:
		f.on("cniVersion", "missing, and then it is 0.1.0, without GC and STATUS; say 1.0.0")
	case !isText: // its type is reported already
	case !slices.Contains(version.All.SupportedVersions(), s):
		f.on("cniVersion", "%q is not a version of CNI; use one of %s", s, strings.Join(version.All.SupportedVersions(), ", "))
	default:
		return []string{s}
	}
	return nil
}

func newer(a, than string) bool {
	is, err := version.GreaterThan(a, than)
	return err == nil && is
}

// plugin checks one plugin's object; where is its path in the file, with a dot.
func (r Rules) plugin(f *file, v hujson.Value, where string) {
	typeValue, _ := member(v, "type")
	name, ok := text(typeValue)
	if !ok || name == "" {
		f.at(f.locate(where+"type"), where+"type", "missing: which plugin?")
		return
	}
	r.installed(f, name, where+"type")
	keys := r.Keys(name)
	ipam := r.ipam(f, v, where)
	if keys == nil {
		return
	}
	before := len(f.problems)
	known{slices.Concat(keys, ipam), r, ipam != nil}.object(f, v, place{"", where})
	if len(f.problems) == before { // else the same would be reported twice
		r.values(f, v, name, where)
	}
	r.capabilities(f, v, name, where)
}

// ipam returns the keys of the list's IPAM plugin; nil if it is not ours.
func (r Rules) ipam(f *file, v hujson.Value, where string) []cni.Key {
	object, ok := member(v, "ipam")
	if !ok {
		return nil
	}
	typeValue, _ := member(object, "type")
	name, ok := text(typeValue)
	if !ok {
		return nil
	}
	r.installed(f, name, where+"ipam.type")
	keys := r.Keys(name)
	return slices.DeleteFunc(slices.Clone(keys), func(k cni.Key) bool { return !strings.HasPrefix(k.Path, "ipam.") && k.Path != "ipam" })
}

func (r Rules) installed(f *file, name, path string) {
	if !r.Installed(name) {
		message := fmt.Sprintf("plugin %q is not in %s", name, strings.Join(r.Path, ", "))
		if like, ok := nearest(name, r.Ours); ok && !slices.Contains(r.Ours, name) {
			message += "; is it " + like + "?"
		}
		f.on(path, "%s", message)
		return
	}
	versions := r.Versions(name)
	at, _ := member(f.root, "cniVersion")
	isVersion := func(v string) bool { return slices.Contains(version.All.SupportedVersions(), v) } // else head names it
	if v, ok := text(at); ok && isVersion(v) && len(versions) > 0 && !slices.Contains(versions, v) {
		f.on("cniVersion", "plugin %s does not support %s; it supports %s", name, v, strings.Join(versions, ", "))
	}
}

// capabilityNames are the capabilities in CNI's conventions (containernetworking/cni,
// CONVENTIONS.md).
var capabilityNames = []string{"portMappings", "ipRanges", "bandwidth", "dns", "ips", "mac", "infinibandGUID", "deviceID", "aliases", "cgroupPath"}

// capabilities reports a plugin that does nothing because it lacks a capability, and
// capabilities that no runtime knows.
func (r Rules) capabilities(f *file, v hujson.Value, name, where string) {
	object, _ := member(v, "capabilities")
	for _, m := range members(object) {
		if like, ok := nearest(nameOf(m), capabilityNames); ok && like != nameOf(m) {
			f.at(m.Name.StartOffset, where+"capabilities."+nameOf(m), "no runtime knows this capability; is it %s?", like)
		}
	}
	needs := map[string]string{"portmap": "portMappings", "bandwidth": "bandwidth"}[name]
	if needs == "" || hasValues(v, needs) {
		return
	}
	asked, ok := member(object, needs)
	if literal, isLiteral := asked.Value.(hujson.Literal); !ok || isLiteral && literal.Kind() == 'f' {
		f.on(where+"capabilities", `"capabilities": {%q: true} is missing: without it runtimes send nothing, and the plugin does nothing`, needs)
	}
}

// hasValues says whether the list itself has the values that the capability would bring.
func hasValues(v hujson.Value, capability string) bool {
	config, _ := member(v, "runtimeConfig")
	_, inConfig := member(config, capability)
	_, ingress := member(v, "ingressRate")
	_, egress := member(v, "egressRate")
	return inConfig || ingress || egress
}

// field matches the key at the beginning of a plugin's error.
var field = regexp.MustCompile(`^(?:network configuration: )?([A-Za-z][\w.-]*(?:\[\d+\][\w.]*)*): `)

// values asks the plugin, and its IPAM plugin, whether they accept the configuration.
func (r Rules) values(f *file, v hujson.Value, name, where string) {
	config, version, err := r.config(f, v)
	if err != nil {
		return // not an object: its type is reported already
	}
	names := []string{name}
	object, _ := member(v, "ipam")
	typeValue, _ := member(object, "type")
	if ipam, ok := text(typeValue); ok && slices.Contains(r.Ours, ipam) && ipam != name {
		names = append(names, ipam)
	}
	for _, plugin := range names {
		request := &cni.Request{Command: cni.Add, Version: version, Stdin: config, Path: r.Path, Owner: cni.Owner{Network: "n"}}
		for _, err := range split(r.Parse(plugin, request)) {
			path, message := "", err.Error()
			if found := field.FindStringSubmatch(message); found != nil {
				path, message = found[1], strings.TrimPrefix(message, found[0])
			}
			f.on(where+path, "%s", message)
		}
	}
}

// config is the configuration that a runtime would send.
func (r Rules) config(f *file, v hujson.Value) (config []byte, version string, err error) {
	var keys map[string]json.RawMessage
	trimmed := v.Clone()
	trimmed.Minimize()
	if err := json.Unmarshal(trimmed.Pack(), &keys); err != nil {
		return nil, "", err
	}
	versionValue, _ := member(f.root, "cniVersion")
	version, _ = text(versionValue)
	if version == "" {
		version = "0.1.0"
	}
	keys["cniVersion"], _ = json.Marshal(version) // a string always marshals
	keys["name"] = json.RawMessage(`"n"`)
	config, err = json.Marshal(keys)
	return config, version, err
}

// split returns joined errors one by one.
func split(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		var all []error
		for _, one := range joined.Unwrap() {
			all = append(all, split(one)...)
		}
		return all
	}
	return []error{err}
}
