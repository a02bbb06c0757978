// Package tuning changes settings of a container's interface and sysctls of its network
// namespace, and restores them on DEL.
//
// A caller parses the configuration (ParseConfig), checks it against the administrator's list
// (Config.CheckAllowed) and calls Store.Add, which records the present values and makes the
// settings; Settings.Amend changes the result accordingly. Store.Release restores the values
// from before the first tuning plugin of a network's list. Start at Store.Add.
//
// To debug: the records are in /run/trestle/tuning, and the reference plugin's files, which we
// write, too, in /run/cni/tuning or the network's dataDir; both are JSON. setting.go shows how
// each setting is read and written.
package tuning

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// defaultDataDir is the directory in which the reference plugin keeps what its DEL restores,
// unless the configuration names another.
const defaultDataDir = "/run/cni/tuning"

// Config is a network's configuration, validated.
type Config struct {
	Settings Settings
	DataDir  string
	sysctls  []sysctlName // for CheckAllowed
}

// sysctlName is the name of a sysctl as it is written, and the key under which it stands.
type sysctlName struct{ key, name string }

// wire is the configuration's JSON.
type wire struct {
	DataDir string `json:"dataDir"`
	values
	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI values `json:"cni"`
	} `json:"args"`
}

// values are the keys that the configuration and args.cni share.
type values struct {
	Sysctl   sysctls `json:"sysctl"`
	MAC      *string `json:"mac"`
	Promisc  *bool   `json:"promisc"`
	MTU      *int    `json:"mtu"`
	AllMulti *bool   `json:"allmulti"`
	TxQLen   *int    `json:"txQLen"`
}

// sysctls is a JSON object in which no name may be there twice.
type sysctls map[string]string

func (s *sysctls) UnmarshalJSON(data []byte) error {
	var all map[string]string
	if err := cni.Unmarshal(data, &all); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	seen := map[string]bool{}
	for index := 0; ; index++ { // the tokens are the brace, then a name and a value in turn
		token, err := decoder.Token()
		if err != nil {
			break // the end, since Unmarshal has found the JSON valid
		}
		name, ok := token.(string)
		if index%2 == 1 && ok && seen[name] {
			return fmt.Errorf("%q is given twice; leave one of them out", name)
		}
		seen[name] = seen[name] || index%2 == 1
	}
	*s = all
	return nil
}

// ParseConfig reads the keys of the tuning plugin. runtimeConfig.mac takes precedence over
// CNI_ARGS MAC, and both over the key mac; args.cni over all. Errors have code 6 or 7. The
// Config beside an error has the DataDir, for DEL and GC, which must work even if the
// configuration has become invalid since the ADD.
func ParseConfig(r *cni.Request) (Config, error) {
	var w wire
	decodeErr := r.Decode(&w)
	c := Config{DataDir: w.DataDir}
	if c.DataDir == "" {
		c.DataDir = defaultDataDir
	}
	if decodeErr != nil {
		return c, decodeErr
	}
	v, keys := w.merge(r.Args["MAC"])
	for _, name := range slices.Sorted(maps.Keys(v.Sysctl)) {
		c.sysctls = append(c.sysctls, sysctlName{w.keyOfSysctl(name), name})
	}
	sysctls, sysctlErr := v.sysctlSettings(c.sysctls, r.Owner.IfName)
	link, linkErr := v.linkSettings(keys)
	c.Settings = slices.Concat(sysctls, link)
	return c, errors.Join(sysctlErr, linkErr)
}

// keyedBy says where a value was found that takes precedence over the key's own.
type keyedBy map[string]string

func (k keyedBy) of(key string) string { return cmp.Or(k[key], key) }

const overAll = "args.cni."

func (w *wire) merge(macFromArgs string) (values, keyedBy) {
	v, over, keys := w.values, w.Args.CNI, keyedBy{}
	v.Sysctl = sysctls{}
	maps.Copy(v.Sysctl, w.Sysctl)
	maps.Copy(v.Sysctl, over.Sysctl)
	for _, asked := range []struct{ key, mac string }{{"CNI_ARGS MAC", macFromArgs}, {"runtimeConfig.mac", w.RuntimeConfig.MAC}} {
		if asked.mac != "" {
			v.MAC, keys["mac"] = &asked.mac, asked.key
		}
	}
	v.MAC = lastSet(v.MAC, over.MAC, "mac", keys)
	v.Promisc = lastSet(v.Promisc, over.Promisc, "promisc", keys)
	v.MTU = lastSet(v.MTU, over.MTU, "mtu", keys)
	v.AllMulti = lastSet(v.AllMulti, over.AllMulti, "allmulti", keys)
	v.TxQLen = lastSet(v.TxQLen, over.TxQLen, "txQLen", keys)
	return v, keys
}

// lastSet is the value that takes precedence, if it is set, or else the other.
func lastSet[T any](below, above *T, key string, keys keyedBy) *T {
	if above == nil {
		return below
	}
	keys[key] = overAll + key
	return above
}

func (w *wire) keyOfSysctl(name string) string {
	if _, over := w.Args.CNI.Sysctl[name]; over {
		return overAll + "sysctl"
	}
	return "sysctl"
}

// sysctlSettings are the sysctls with IFNAME replaced by the interface's name.
func (v values) sysctlSettings(sorted []sysctlName, ifName string) (Settings, error) {
	var settings Settings
	names := map[string]string{}
	for _, n := range sorted {
		path, err := sysctlPath(n.name, ifName)
		if err != nil {
			return nil, cni.ConfigError(n.key, err)
		}
		if twin := names[path]; twin != "" {
			return nil, cni.ConfigErrorf("%s: %q and %q are the same; leave one of them out", n.key, twin, n.name)
		}
		names[path] = n.name
		settings = append(settings, setting{sysctl + path, joinFields(v.Sysctl[n.name])})
	}
	return settings, nil
}

// sysctlPath is the path of the sysctl's file below /proc/sys. Dots in the name are
// separators, but dots in the interface's name, which replaces IFNAME, are not. ifName is
// empty for GC and STATUS.
func sysctlPath(name, ifName string) (string, error) {
	const wayOut = `name it as in "net.core.somaxconn" or "net.ipv4.conf.IFNAME.arp_filter"`
	path := strings.ReplaceAll(name, ".", "/")
	if ifName != "" {
		path = strings.Replace(path, "IFNAME", ifName, 1)
	}
	if !strings.HasPrefix(path, "net/") {
		return "", fmt.Errorf("%q is not one of the network; %s", name, wayOut)
	}
	bad := func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, bad) {
			return "", fmt.Errorf("%q is not the name of a sysctl; %s", name, wayOut)
		}
	}
	return path, nil
}

// linkSettings are the settings of the interface. As with the reference plugin, promisc
// false, mtu 0 and an empty mac change nothing.
func (v values) linkSettings(keys keyedBy) (Settings, error) {
	var settings Settings
	if v.MAC != nil && *v.MAC != "" {
		mac, err := net.ParseMAC(*v.MAC)
		if err != nil || mac[0]&1 == 1 || slices.Max(mac) == 0 {
			return nil, cni.ConfigErrorf("%s: %q is not the address of an interface; use octets of which the first is even, as in 0a:58:0a:16:00:02", keys.of("mac"), *v.MAC)
		}
		settings = append(settings, setting{macAddress, mac.String()})
	}
	if v.Promisc != nil && *v.Promisc {
		settings = append(settings, setting{promisc, on})
	}
	if v.MTU != nil && *v.MTU != 0 {
		if *v.MTU < cni.MinMTU || *v.MTU > maxMTU {
			return nil, cni.ConfigErrorf("%s: %d is out of bounds; use %d to %d, or 0 to leave it as it is", keys.of("mtu"), *v.MTU, cni.MinMTU, maxMTU)
		}
		// of both ends of a veth pair: each drops packets larger than its own MTU
		number := strconv.Itoa(*v.MTU)
		settings = append(settings, setting{mtu, number}, setting{hostMTU, number})
	}
	if v.AllMulti != nil {
		settings = append(settings, setting{allMulti, onOff(*v.AllMulti)})
	}
	if v.TxQLen != nil {
		if n := *v.TxQLen; n < 0 || uint64(n) > math.MaxUint32 { // of which the kernel would take the lowest bits
			return nil, cni.ConfigErrorf("%s: %d is out of bounds; use 0 to %d packets", keys.of("txQLen"), n, uint32(math.MaxUint32))
		}
		settings = append(settings, setting{txQLen, strconv.Itoa(*v.TxQLen)})
	}
	return settings, nil
}

const maxMTU = 65536 // of lo
