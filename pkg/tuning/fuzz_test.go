package tuning

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzParseConfig: an invalid configuration gets one of the spec's codes for that; a sysctl of
// a valid one is below net.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"mac":"02:00:00:00:00:01","mtu":1400,"promisc":true,"sysctl":{"net.core.somaxconn":"512","net/ipv4/conf/IFNAME/arp_filter":"1"},"args":{"cni":{"txQLen":7}}}`), "02:00:00:00:00:02", "eth0")
	f.Add([]byte(`{"sysctl":{"net.ipv4.conf.eth0.5.forwarding":"1","net.../kernel":"x"},"runtimeConfig":{"mac":"x"}}`), "", "e.0")
	f.Fuzz(func(t *testing.T, config []byte, mac, ifName string) {
		if ifName == "" || ifName == "." || ifName == ".." || strings.ContainsAny(ifName, "/\x00") {
			return // Request refuses it
		}
		c, err := ParseConfig(&cni.Request{
			Command: cni.Add, Version: "1.1.0", Stdin: config, Args: map[string]string{"MAC": mac},
			Owner: cni.Owner{Network: "net", ContainerID: "c1", IfName: ifName},
		})
		if err != nil {
			if code := cni.CodeOf(err); code != cni.CodeConfig && code != cni.CodeDecode && code != cni.CodeEnvironment {
				t.Errorf("code %d: %v", code, err)
			}
			return
		}
		for _, s := range c.Settings {
			path, ok := strings.CutPrefix(s.Name, sysctl)
			if ok && (!strings.HasPrefix(filepath.Join("/proc/sys", path), "/proc/sys/net/") || strings.Contains(path, "\x00")) {
				t.Errorf("%s: would write %q", config, path)
			}
		}
	})
}

// FuzzRecord: a damaged file counts as none, or as one that can be written again.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"mac":"02:00:00:00:00:01","mtu":1500,"trestle":{"Owner":{"Network":"net","ContainerID":"c1","IfName":"eth0"},"Before":[{"Name":"mtu","Value":"1500"},{"Name":"sysctl net/core/somaxconn","Value":"4096"}]}}`))
	f.Add([]byte(`{"promisc":true,"allmulti":false,"txQLen":1000,"trestle":null}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var have file
		if json.Unmarshal(data, &have) != nil {
			return
		}
		r := have.toSaved()
		if _, err := r.toFile(); err != nil {
			return // a number that is none
		}
		r.fromReference()
		r.netns()
	})
}
