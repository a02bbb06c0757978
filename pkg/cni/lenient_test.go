package cni

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// TestBrokenConfigurationHasAVersion: the error has the configuration's cniVersion even if the
// configuration cannot be parsed.
func TestBrokenConfigurationHasAVersion(t *testing.T) {
	tests := []struct{ name, config, want string }{
		{"nothing", ``, "1.1.0"},
		{"no JSON", `hello`, "1.1.0"},
		{"a list", `[]`, "1.1.0"},
		{"cut off before", `{"name":"net","cniVersio`, "1.1.0"},
		{"cut off after", `{"cniVersion":"0.4.0","name":"ne`, "0.4.0"},
		{"in another case", `{"CNIVERSION":"0.4.0",`, "0.4.0"},
		{"mistake after", `{"ipam":{"cniVersion":"9"},"x":[1,"cniVersion"],"cniVersion":"1.0.0",}`, "1.0.0"},
		{"version of something else", `{"prevResult":{"cniVersion":"0.4.0"},`, "1.1.0"},
		{"version as a value", `{"name":"cniVersion","x":"0.4.0",`, "1.1.0"},
		{"wrong type elsewhere", `{"cniVersion":"0.4.0","name":7}`, "0.4.0"},
		{"version of a wrong type", `{"cniVersion":7,"name":"net"}`, "1.1.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if e := serve(soundEnv("ADD"), tt.config, nil).error(t); e.CNIVersion != tt.want || e.Code != CodeDecode {
				t.Errorf("got %+v, want cniVersion %s and code %d", e, tt.want, CodeDecode)
			}
		})
	}
}

// TestArgsCountWhereTheyAreRead: a malformed CNI_ARGS is an error only for plugins that read
// it, and never on DEL.
func TestArgsCountWhereTheyAreRead(t *testing.T) {
	for _, tt := range []struct {
		command Command
		reads   bool
		fails   bool
	}{
		{Add, true, true},
		{Add, false, false},
		{Check, true, true},
		{Check, false, false},
		{Del, true, false},
		{Del, false, false},
	} {
		var seen map[string]string
		note := func(r *Request) error { seen = r.Args; return nil }
		p := Plugin{
			Name: "p", ReadsArgs: tt.reads, Del: note, Check: note,
			Add: func(r *Request) (types.Result, error) { return &Result{}, note(r) },
		}
		env := soundEnv(string(tt.command))
		env["CNI_ARGS"] = "nonsense;IP=10.0.0.5"
		var out bytes.Buffer
		status := p.serve(func(k string) string { return env[k] }, strings.NewReader(soundConfig), &out)
		if tt.fails {
			if e := (answer{status: status, out: out.String()}).error(t); e.Code != CodeEnvironment || !strings.Contains(e.Msg, `"nonsense"`) {
				t.Errorf("%+v: got %+v, want code 4", tt, e)
			}
		} else if status != 0 || seen["IP"] != "10.0.0.5" {
			t.Errorf("%+v: got status %d, %s, args %v", tt, status, out.String(), seen)
		}
	}
}

// TestNamespaceOfThoseWhoEnterIt: only plugins that enter CNI_NETNS check it. Scripts call IPAM
// plugins with CNI_NETNS=/dev/null, as the reference's README does.
func TestNamespaceOfThoseWhoEnterIt(t *testing.T) {
	for _, netns := range []string{"/dev/null", "/run/netns/none", "dummy", "/proc/self/ns/net"} {
		for _, command := range []Command{Add, Del} {
			var seen string
			p := Plugin{
				Add: func(r *Request) (types.Result, error) { seen = r.NetNS; return &Result{}, nil },
				Del: func(r *Request) error { seen = r.NetNS; return nil },
			}
			env := soundEnv(string(command))
			env["CNI_NETNS"], env["CNI_NETNS_OVERRIDE"] = netns, ""
			var out bytes.Buffer
			status := p.serve(func(k string) string { return env[k] }, strings.NewReader(soundConfig), &out)
			if status != 0 || seen != netns {
				t.Errorf("%s %s: got status %d, %s, namespace %q", command, netns, status, out.String(), seen)
			}
		}
	}
}

// TestDelOfANameThatAddRefuses: DEL accepts a quote, and the names of all interfaces.
func TestDelOfANameThatAddRefuses(t *testing.T) {
	for _, command := range []Command{Del, Check} {
		for _, name := range []string{`e"0`, "all"} {
			env := soundEnv(string(command))
			env["CNI_IFNAME"] = name
			if a := serve(env, soundConfig, nil); a.status != 0 || a.req.Owner.IfName != name {
				t.Errorf("%s of %s: got status %d, %s", command, name, a.status, a.out)
			}
		}
	}
}

// TestDelErrorIsNotTakenForSuccess: go-cni drops an error of DEL that says "not
// found", and with an empty namespace one that says "no such file or directory".
func TestDelErrorIsNotTakenForSuccess(t *testing.T) {
	const text = "run iptables: executable file not found in $PATH: no such file or directory"
	fails := func(*Request) error { return fmt.Errorf("%s", text) }
	p := Plugin{Name: "p", EntersNetNS: true, Del: fails, Check: fails}
	for _, tt := range []struct {
		command Command
		netns   string
		want    string
	}{
		{Check, "/proc/self/ns/net", text},
		{Del, "/proc/self/ns/net", "run iptables: executable file missing in $PATH: no such file or directory"},
		{Del, "/nowhere", "run iptables: executable file missing in $PATH: no such file or directory"},
		{Del, "", "run iptables: executable file missing in $PATH: no such file"},
	} {
		env := soundEnv(string(tt.command))
		env["CNI_NETNS"] = tt.netns
		var out bytes.Buffer
		status := p.serve(func(k string) string { return env[k] }, strings.NewReader(soundConfig), &out)
		if e := (answer{status: status, out: out.String()}).error(t); e.Msg != tt.want {
			t.Errorf("%s with %q: got %q, want %q", tt.command, tt.netns, e.Msg, tt.want)
		}
	}
}
