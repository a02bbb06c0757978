package bridge

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
	"github.com/trestle-cni/trestle/test/host"
)

// checkedKey is a key of the bridge plugin and what CHECK finds of it: that the
// configuration asks for another value by now, or that the kernel has another. Or why
// it finds nothing.
type checkedKey struct {
	path       string
	with       object // what goes with the key
	added      any    // its value at ADD
	checked    any    // its value at CHECK; nil: the same
	breaks     string // a command that changes the kernel meanwhile; C is the container
	says       string // a part of what CHECK says
	unobserved string
}

const aMAC = "02:00:00:00:00:01"

// checkedKeys has each key: who adds one says here what CHECK finds.
var checkedKeys = []checkedKey{
	{path: "bridge", added: "br-a", checked: "br-b", says: "br-b"},
	{path: "bridgeLifetime", unobserved: "it tells DEL what to do"},
	{path: "isGateway", with: object{"isDefaultGateway": nil, "ipMasq": nil}, added: false, checked: true, says: "gateway address"},
	{path: "isDefaultGateway", added: true, breaks: "ip -n C route del default", says: "0.0.0.0/0"},
	{path: "forceAddress", unobserved: "what it replaces is gone when ADD returns"},
	{path: "mtu", unobserved: "later plugins of the list change it without a word"},
	{path: "hairpinMode", added: false, checked: true, says: "hairpin"},
	{path: "promiscMode", unobserved: "a packet capture switches it on and off"},
	{path: "macspoofchk", added: false, checked: true, says: "table bridge trestle"},
	{path: "enabledad", unobserved: "it tells ADD how long to wait"},
	{path: "disableContainerInterface", with: object{"ipam": nil, "isDefaultGateway": nil, "ipMasq": nil}, added: true, checked: false, says: "eth0 up"},
	{path: "portIsolation", added: false, checked: true, says: "isolated"},
	{path: "ipv6LinkLocal", unobserved: "the kernel's addresses are nobody's"},
	{path: "dns", unobserved: "it is in the result alone"},
	{path: "ipam", with: object{"ipMasq": nil}, added: host.Leases("10.9.0.0/24"), breaks: "ip -n C addr flush dev eth0", says: "address"},
	{path: "runtimeConfig.mac", added: aMAC, breaks: "ip -n C link set eth0 address 02:00:00:00:00:02", says: aMAC},
	{path: "args.cni.mac", added: aMAC, breaks: "ip -n C link set eth0 address 02:00:00:00:00:02", says: aMAC},
	{path: "CNI_ARGS MAC", added: aMAC, breaks: "ip -n C link set eth0 address 02:00:00:00:00:02", says: aMAC},
	{path: "ipMasq", added: false, checked: true, says: "masquerade"},
	{path: "ipMasqBackend", added: "iptables", breaks: "iptables -t nat -F", says: "iptables"},
	{path: "masquerade.exclude", added: []string{"10.0.0.0/8"}, checked: []string{"10.0.0.0/9"}, says: "chain postrouting"},
	{path: "masquerade.snatIP4", added: "192.0.2.2", checked: "192.0.2.3", says: "chain postrouting"},
	{path: "masquerade.snatIP6", added: "2001:db8::2", checked: "2001:db8::3", says: "chain postrouting"},
	{path: "masquerade.randomFully", added: true, checked: false, says: "chain postrouting"},
}

// checkedVLANKeys are those that ask for a kernel with VLANs.
var checkedVLANKeys = []checkedKey{
	{path: "vlan", added: 5, checked: 6, says: "6"},
	{path: "vlanTrunk", added: []any{object{"id": 5}}, checked: []any{object{"id": 5}, object{"id": 6}}, says: "6"},
	{path: "preserveDefaultVlan", with: object{"vlan": 5}, added: false, checked: true, says: "1"},
}

// TestBridgeCheckKnowsEachKey: no key is read that CHECK forgets.
func TestBridgeCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, k := range append(checkedKeys, checkedVLANKeys...) {
		known[k.path] = true
	}
	for _, k := range append(registry.Keys("portmap"), cni.ProtocolKeys()...) {
		known[k.Path] = true // others' tests
	}
	for _, k := range registry.Keys("bridge") {
		if k.Doc != "" && k.Path != "masquerade" && !known[k.Path] {
			t.Errorf("%s: say in checkedKeys what CHECK finds of it", k.Path)
		}
	}
	checkKeys(t, host.NewRouting(t), checkedKeys)
}

func TestVLANCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	checkKeys(t, host.NewWithVLANs(t), checkedVLANKeys)
}

// checkKeys gives each key a network, a bridge and a container of its own.
func checkKeys(t *testing.T, h *host.Host, keys []checkedKey) {
	for i, k := range keys {
		if k.unobserved != "" {
			continue
		}
		c := h.Container(fmt.Sprint("c", i))
		call := func(command string, value any) host.Call {
			config := object{
				"name": fmt.Sprint("n", i), "bridge": fmt.Sprint("br", i),
				"ipam": object{"type": "host-local", "ranges": []any{
					[]any{object{"subnet": fmt.Sprintf("10.%d.0.0/24", 100+i)}}, []any{object{"subnet": fmt.Sprintf("fd%d::/64", 10+i)}},
				}},
			}
			maps.Copy(config, k.with)
			call := c.Call(command, "bridge", "")
			if variable, ok := strings.CutPrefix(k.path, "CNI_ARGS "); ok {
				call.Args = fmt.Sprintf("%s=%v", variable, value)
			} else {
				k.set(config, value)
			}
			call.Config = host.BridgeConfig(config)
			return call
		}
		check := func(value any, result string) error {
			c := call("CHECK", value)
			c.Config = withPrev(t, c.Config, result)
			return h.Exec(c).Err()
		}
		result := h.Must(call("ADD", k.added)).Stdout
		if err := check(k.added, result); err != nil {
			t.Errorf("%s: %v, checked as it was added: %v", k.path, k.added, err)
		}
		if k.breaks != "" {
			h.MustRun(strings.Fields(strings.ReplaceAll(k.breaks, "C", c.ID))...)
		}
		if k.checked == nil {
			k.checked = k.added
		}
		err := check(k.checked, result)
		if host.CodeOf(err) != uint(cni.CodeMismatch) || !strings.Contains(err.Error(), k.says) {
			t.Errorf("%s: added with %v, checked with %v: got %v, want code %d and %q in it", k.path, k.added, k.checked, err, cni.CodeMismatch, k.says)
		}
	}
}

// set puts the value where the key's path leads to.
func (k checkedKey) set(config object, value any) {
	parts := strings.Split(k.path, ".")
	for _, part := range parts[:len(parts)-1] {
		inner := object{}
		config[part], config = inner, inner
	}
	config[parts[len(parts)-1]] = value
}
