package host

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

// CheckedKey is a key of a plugin's configuration and what CHECK finds of it: that the
// configuration asks for another value by now, or that the kernel has another. Or why
// it finds nothing.
type CheckedKey struct {
	Path       string
	With       Object // what goes with the key
	Added      any    // its value at ADD
	Checked    any    // its value at CHECK; nil: the same
	Breaks     string // a command that changes the kernel meanwhile; CONTAINER is its id
	Says       string // a part of what CHECK says
	Unobserved string // why CHECK finds nothing
}

// AssertKeys fails the test for each key that the plugin reads and that none of keys is
// about, and the other way round. Those of the protocol, and of other plugins that are
// named, need none.
func AssertKeys(t T, plugin string, keys []CheckedKey, others ...string) {
	t.Helper()
	elsewhere := cni.ProtocolKeys()
	for _, other := range others {
		elsewhere = append(elsewhere, registry.Keys(other)...)
	}
	read := map[string]bool{}
	for _, key := range registry.Keys(plugin) {
		read[key.Path] = true
		is := func(k CheckedKey) bool {
			return k.Path == key.Path || strings.HasPrefix(k.Path, key.Path+".") || strings.HasPrefix(k.Path, key.Path+"[].")
		}
		known := slices.ContainsFunc(keys, is) || slices.ContainsFunc(elsewhere, func(e cni.Key) bool { return e.Path == key.Path })
		if key.Doc != "" && !known {
			t.Errorf("%s reads %s: say what CHECK finds of it", plugin, key.Path)
		}
	}
	for _, k := range keys {
		if !read[k.Path] {
			t.Errorf("%s does not read %s", plugin, k.Path)
		}
	}
}

// CheckKey adds the container by the plugin, whose configuration has base and the key,
// and fails the test unless CHECK finds that all is well, and then what differs, and that
// all is well after an ADD with the other value.
func (c *Container) CheckKey(plugin string, base Object, k CheckedKey) {
	c.t.Helper()
	if k.Unobserved != "" {
		return
	}
	call := func(command string, value any, prevResult string) Call {
		config := maps.Clone(base)
		maps.Copy(config, k.With)
		call := c.Call(command, plugin, "")
		if variable, ok := strings.CutPrefix(k.Path, "CNI_ARGS "); ok {
			call.Args = fmt.Sprintf("%s=%v", variable, value)
		} else {
			k.set(config, value)
		}
		if prevResult != "" {
			config["prevResult"] = json.RawMessage(prevResult)
		}
		call.Config = configOf(config)
		return call
	}
	result := c.host.Must(call("ADD", k.Added, "")).Stdout
	c.host.Must(call("CHECK", k.Added, result))
	if k.Breaks != "" {
		c.host.MustRun("sh", "-ec", strings.ReplaceAll(k.Breaks, "CONTAINER", c.ID))
	}
	isOther := k.Checked != nil
	if !isOther {
		k.Checked = k.Added
	}
	err := c.host.Exec(call("CHECK", k.Checked, result)).Err()
	if CodeOf(err) != uint(cni.CodeMismatch) || !strings.Contains(err.Error(), k.Says) {
		c.t.Errorf("%s: added with %v, checked with %v: got %v, want code %d and %q in it", k.Path, k.Added, k.Checked, err, cni.CodeMismatch, k.Says)
	}
	if isOther { // ADD brings about what CHECK misses
		c.host.Must(call("DEL", k.Added, result))
		result = c.host.Must(call("ADD", k.Checked, "")).Stdout
		c.host.Must(call("CHECK", k.Checked, result))
	}
}

// set puts the value where the key's path leads to; "list[].key" is that of a list of one.
func (k CheckedKey) set(config Object, value any) {
	parts := strings.Split(k.Path, ".")
	for _, part := range parts[:len(parts)-1] {
		inner := Object{}
		if name, isList := strings.CutSuffix(part, "[]"); isList {
			if list, ok := config[name].([]any); ok {
				if first, ok := list[0].(Object); ok {
					inner = maps.Clone(first)
				}
			}
			config[name] = []any{inner}
		} else {
			if have, ok := config[part].(Object); ok {
				inner = maps.Clone(have)
			}
			config[part] = inner
		}
		config = inner
	}
	config[parts[len(parts)-1]] = value
}
