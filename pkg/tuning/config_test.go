package tuning_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/tuning"
)

func parse(config string, args map[string]string) (tuning.Config, error) {
	owner := cni.Owner{Network: "n", ContainerID: "c1", IfName: "eth0.7"}
	return tuning.ParseConfig(&cni.Request{Command: cni.Add, Owner: owner, Version: "1.0.0", Args: args, Stdin: []byte(config)})
}

func TestParseConfig(t *testing.T) {
	type S = tuning.Settings
	for _, test := range []struct {
		name, config string
		args         map[string]string
		want         S
	}{
		{"nothing", `{}`, nil, nil},
		{"nothing asked for", `{"mac": "", "promisc": false, "mtu": 0, "sysctl": {}}`, nil, nil},
		{"everything", `{"mac": "0A:58:00:00:00:01", "promisc": true, "mtu": 1400, "allmulti": false, "txQLen": 0,
			"sysctl": {"net.ipv4.tcp_rmem": "4096  87380\t6291456", "net.ipv4.conf.IFNAME.arp_filter": "1"}}`, nil, S{
			{"sysctl net/ipv4/conf/eth0.7/arp_filter", "1"},
			{"sysctl net/ipv4/tcp_rmem", "4096 87380 6291456"},
			{"mac", "0a:58:00:00:00:01"},
			{"promisc", "on"},
			{"mtu", "1400"},
			{"host veth's mtu", "1400"},
			{"allmulti", "off"},
			{"txQLen", "0"},
		}},
		{"keys in any case", `{"TxQLen": 7, "runtimeConfig": {"MAC": "02:00:00:00:00:01"}}`, nil, S{{"mac", "02:00:00:00:00:01"}, {"txQLen", "7"}}},
		{"slashes", `{"sysctl": {"net/core/somaxconn": "512"}}`, nil, S{{"sysctl net/core/somaxconn", "512"}}},
		{"CNI_ARGS over configuration", `{"mac": "02:00:00:00:00:01"}`, map[string]string{"MAC": "02:00:00:00:00:02"}, S{{"mac", "02:00:00:00:00:02"}}},
		{"runtimeConfig over CNI_ARGS", `{"runtimeConfig": {"mac": "02:00:00:00:00:03"}}`, map[string]string{"MAC": "02:00:00:00:00:02"}, S{{"mac", "02:00:00:00:00:03"}}},
		{"args over all", `{"mtu": 1400, "promisc": true, "txQLen": 5, "sysctl": {"net.core.somaxconn": "1"}, "runtimeConfig": {"mac": "02:00:00:00:00:03"},
			"args": {"cni": {"mac": "02:00:00:00:00:04", "mtu": 1300, "promisc": false, "allmulti": true, "txQLen": 9, "sysctl": {"net.core.somaxconn": "2"}}}}`, nil, S{
			{"sysctl net/core/somaxconn", "2"}, {"mac", "02:00:00:00:00:04"}, {"mtu", "1300"}, {"host veth's mtu", "1300"}, {"allmulti", "on"}, {"txQLen", "9"},
		}},
		{"args without a configured sysctl", `{"args": {"cni": {"sysctl": {"net.core.somaxconn": "2"}}}}`, nil, S{{"sysctl net/core/somaxconn", "2"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(test.config, test.args)
			if err != nil || cmp.Diff(test.want, got.Settings) != "" {
				t.Errorf("got %v, %v, want %v", got.Settings, err, test.want)
			}
			if got.DataDir != "/run/cni/tuning" {
				t.Errorf("got dataDir %q, want %q", got.DataDir, "/run/cni/tuning")
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	tooLong := cni.CodeConfig
	if strconv.IntSize == 32 {
		tooLong = cni.CodeDecode
	}
	for _, test := range []struct {
		name, config string
		code         cni.Code
		want         string
	}{
		{"not of the network", `{"sysctl": {"kernel.panic": "1"}}`, 7, `"kernel.panic" is not one of the network`},
		{"out of the network", `{"sysctl": {"net/../kernel/panic": "1"}}`, 7, `"net/../kernel/panic" is not the name`},
		{"absolute", `{"sysctl": {"/net/core/somaxconn": "1"}}`, 7, "is not one of the network"},
		{"empty part", `{"sysctl": {"net.core.": "1"}}`, 7, "is not the name"},
		{"white space", `{"sysctl": {"net.core.somax conn": "1"}}`, 7, "is not the name"},
		{"twice", `{"sysctl": {"net.core.somaxconn": "1", "net.core.somaxconn": "2"}}`, 6, `"net.core.somaxconn" is given twice`},
		{"twice in two ways", `{"sysctl": {"net.core.somaxconn": "1", "net/core/somaxconn": "2"}}`, 7, "are the same"},
		{"not text", `{"sysctl": {"net.core.somaxconn": 1}}`, 6, "sysctl.net.core.somaxconn: a number stands where text belongs; write it in quotes"},
		{"mac", `{"mac": "x"}`, 7, `mac: "x"`},
		{"multicast mac", `{"mac": "01:00:5e:00:00:01"}`, 7, "01:00:5e:00:00:01"},
		{"no mac at all", `{"mac": "00:00:00:00:00:00"}`, 7, "00:00:00:00:00:00"},
		{"small mtu", `{"mtu": 67}`, 7, "mtu: 67"},
		{"negative mtu", `{"mtu": -1}`, 7, "mtu: -1"},
		{"large mtu", `{"args": {"cni": {"mtu": 65537}}}`, 7, "args.cni.mtu: 65537"},
		{"queue", `{"txQLen": -1}`, 7, "txQLen: -1"},
		{"large queue", `{"args": {"cni": {"txQLen": 4294967296}}}`, tooLong, "args.cni.txQLen: "},
		{"sysctl of args", `{"args": {"cni": {"sysctl": {"kernel.panic": "1"}}}}`, 7, `args.cni.sysctl: "kernel.panic" is not`},
		{"runtime's mac", `{"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "x"}}`, 7, `runtimeConfig.mac: "x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(strings.Replace(test.config, "{", `{"dataDir": "/elsewhere", `, 1), nil)
			if err == nil || cni.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want code %d and %q", err, test.code, test.want)
			}
			if got.DataDir != "/elsewhere" {
				t.Errorf("got dataDir %q, want it for a DEL all the same", got.DataDir)
			}
		})
	}
}

func TestAllowList(t *testing.T) {
	const sysctls = `{"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "1"}}`
	for _, test := range []struct {
		name, list, config string
		want               string // of the error; empty: allowed
	}{
		{"both", "^net.ipv4.conf.IFNAME.[a-z_]*$\n\n  ^net.core.somaxconn$  \n", sysctls, ""},
		{"a part matches", "arp_filter\nsomaxconn", sysctls, ""},
		{"one", "^net.ipv4.conf.IFNAME.[a-z_]*$\n", sysctls, `"net.core.somaxconn" is not allowed`},
		{"none", "", sysctls, "is not allowed"},
		{"none needed", "(", `{"mtu": 1400}`, ""},
		{"no regular expression", "(\n", sysctls, `"(" is not a regular expression`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "allowlist.conf")
			if err := os.WriteFile(path, []byte(test.list), 0o600); err != nil {
				t.Fatal(err)
			}
			config, err := parse(test.config, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = config.CheckAllowed(path)
			if (err == nil) != (test.want == "") || err != nil && (cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err := config.CheckAllowed(path + ".none"); err != nil {
				t.Errorf("without a list: %v", err)
			}
		})
	}
}
