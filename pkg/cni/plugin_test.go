package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

const soundConfig = `{"cniVersion":"1.1.0","name":"net","type":"p"}`

// The test's own namespace serves as the container's, by CNI_NETNS_OVERRIDE.
func soundEnv(command string) map[string]string {
	return map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/proc/self/ns/net",
		"CNI_PATH": "/opt/cni/bin:/usr/lib/cni", "CNI_NETNS_OVERRIDE": "1",
	}
}

type answer struct {
	status int
	out    string
	called Command
	req    *Request
}

func (a answer) error(t *testing.T) (e struct {
	CNIVersion string
	Code       Code
	Msg        string
},
) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.out), &e); err != nil || a.status == 0 {
		t.Fatalf("got status %d and %q, want an error object (%v)", a.status, a.out, err)
	}
	return e
}

func serve(env map[string]string, config string, result types.Result) answer {
	var a answer
	note := func(command Command) func(*Request) error {
		return func(r *Request) error { a.called, a.req = command, r; return nil }
	}
	p := Plugin{
		Name: "p", EntersNetNS: true, ReadsArgs: true,
		Add: func(r *Request) (types.Result, error) { a.called, a.req = Add, r; return result, nil },
		Del: note(Del), Check: note(Check), Validate: func(*Request) error { return nil },
		States: []State{{GC: func(r *Request, _ Valid) error { return note(GC)(r) }, Status: note(Status)}},
	}
	var out bytes.Buffer
	a.status = p.serve(func(k string) string { return env[k] }, strings.NewReader(config), &out)
	a.out = out.String()
	return a
}

func TestRefusals(t *testing.T) {
	set := func(kv ...string) map[string]string {
		env := soundEnv("ADD")
		for i := 0; i < len(kv); i += 2 {
			env[kv[i]] = kv[i+1]
		}
		return env
	}
	plainFile := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plainFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		env      map[string]string
		config   string
		wantCode Code
		wantMsg  []string
	}{
		{"broken JSON", set(), `{"cniVersion":`, CodeDecode, []string{"network configuration"}},
		{"a name that is no string", set(), `{"cniVersion":"1.0.0","name":7}`, CodeDecode, []string{"name"}},
		{"unknown version", set(), `{"cniVersion":"9.9.9","name":"net"}`, CodeVersion, []string{"cniVersion", "9.9.9", "1.1.0"}},
		{"missing name", set(), `{"cniVersion":"1.0.0"}`, CodeConfig, []string{"name: missing"}},
		{"name with a slash", set(), `{"cniVersion":"1.0.0","name":"a/b"}`, CodeConfig, []string{"name", "a/b"}},
		{"name that climbs", set(), `{"cniVersion":"1.0.0","name":".."}`, CodeConfig, []string{"name", ".."}},
		{"name longer than a file's", set(), `{"cniVersion":"1.0.0","name":"` + strings.Repeat("a", 256) + `"}`, CodeConfig, []string{"name", "256 bytes", "255"}},
		{"container id longer than a file's name", set("CNI_CONTAINERID", strings.Repeat("a", 300)), soundConfig, CodeEnvironment, []string{"CNI_CONTAINERID", "300 bytes", "255"}},
		{"ifname with a quote", set("CNI_IFNAME", `e"0`), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", `e\"0`, "quote", "choose"}},
		{"ifname with an apostrophe", set("CNI_IFNAME", `e'0`), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", "quote"}},
		{"ifname with a backslash", set("CNI_IFNAME", `e\0`), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", "backslash"}},
		{"ifname of all interfaces", set("CNI_IFNAME", "all"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", "all", "not the name of one interface", "choose"}},
		{"ifname that no result can hold", set("CNI_IFNAME", "eth\xad"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", `eth\xad`, "UTF-8", "choose"}},
		{"netns that no result can hold", set("CNI_NETNS", "/run/netns/\xff"), soundConfig, CodeEnvironment, []string{"CNI_NETNS", "UTF-8"}},
		{"container id that climbs", set("CNI_CONTAINERID", "../x"), soundConfig, CodeEnvironment, []string{"CNI_CONTAINERID", "../x"}},
		{"container id with a space", set("CNI_CONTAINERID", "a b"), soundConfig, CodeEnvironment, []string{"CNI_CONTAINERID", "a b"}},
		{"no container id", set("CNI_CONTAINERID", ""), soundConfig, CodeEnvironment, []string{"CNI_CONTAINERID"}},
		{"nothing set", set("CNI_CONTAINERID", "", "CNI_NETNS", "", "CNI_IFNAME", ""), soundConfig, CodeEnvironment, []string{"CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"}},
		{"ifname too long", set("CNI_IFNAME", "abcdefghijklmnop"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", "abcdefghijklmnop", "15"}},
		{"ifname with a slash", set("CNI_IFNAME", "a/b"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME"}},
		{"ifname with a colon", set("CNI_IFNAME", "a:b"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME"}},
		{"ifname ..", set("CNI_IFNAME", ".."), soundConfig, CodeEnvironment, []string{"CNI_IFNAME"}},
		{"ifname with a line break", set("CNI_IFNAME", "a\nb"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME"}},
		{"args without =", set("CNI_ARGS", "IP=10.0.0.1;nonsense"), soundConfig, CodeEnvironment, []string{"CNI_ARGS", "nonsense"}},
		{"unknown command", set("CNI_COMMAND", "FROB"), soundConfig, CodeEnvironment, []string{"CNI_COMMAND", "FROB"}},
		{"CHECK before 0.4.0", set("CNI_COMMAND", "CHECK"), `{"cniVersion":"0.3.1","name":"net"}`, CodeVersion, []string{"CHECK", "0.3.1", "0.4.0"}},
		{"GC before 1.1.0", set("CNI_COMMAND", "GC"), `{"cniVersion":"1.0.0","name":"net"}`, CodeVersion, []string{"GC", "1.0.0", "1.1.0"}},
		{"STATUS before 1.1.0", set("CNI_COMMAND", "STATUS"), `{"cniVersion":"1.0.0","name":"net"}`, CodeVersion, []string{"STATUS"}},
		{"netns missing", set("CNI_NETNS", "/nowhere"), soundConfig, CodeEnvironment, []string{"CNI_NETNS", "/nowhere"}},
		{"netns is a plain file", set("CNI_NETNS", plainFile), soundConfig, CodeEnvironment, []string{"CNI_NETNS", plainFile}},
		{"netns of another kind", set("CNI_NETNS", "/proc/self/ns/mnt"), soundConfig, CodeEnvironment, []string{"CNI_NETNS", "/proc/self/ns/mnt"}},
		{"ifname that the kernel would fill in", set("CNI_IFNAME", "eth%d"), soundConfig, CodeEnvironment, []string{"CNI_IFNAME", "eth%d"}},
		{"netns is our own", set("CNI_NETNS_OVERRIDE", ""), soundConfig, CodeEnvironment, []string{"CNI_NETNS", "CNI_NETNS_OVERRIDE"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := serve(tt.env, tt.config, &Result{})
			e := a.error(t)
			if e.Code != tt.wantCode {
				t.Errorf("code: got %d, want %d (%s)", e.Code, tt.wantCode, e.Msg)
			}
			for _, want := range tt.wantMsg {
				if !strings.Contains(e.Msg, want) {
					t.Errorf("message: got %q, want %q in it", e.Msg, want)
				}
			}
			if a.called != "" {
				t.Errorf("%s was called before the refusal", a.called)
			}
		})
	}
}

func TestErrorsCarryTheCallersVersion(t *testing.T) {
	env := soundEnv("ADD")
	env["CNI_IFNAME"] = ".."
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0", "9.9.9"} {
		e := serve(env, `{"cniVersion":"`+version+`","name":"net"}`, nil).error(t)
		if e.CNIVersion != version {
			t.Errorf("got cniVersion %q, want %q", e.CNIVersion, version)
		}
	}
}

func TestCommandsReachTheirFunctions(t *testing.T) {
	for _, command := range []Command{Add, Del, Check, GC, Status} {
		a := serve(soundEnv(string(command)), soundConfig, &Result{})
		if a.status != 0 || a.called != command {
			t.Errorf("%s: got status %d, %q called, answer %q", command, a.status, a.called, a.out)
		}
	}
}

func TestDelBearsAnyNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, netns, override, want string }{
		{"none", "", "", ""},
		{"gone", "/nowhere", "", ""},
		{"plain file", file, "", ""},
		{"a namespace of another kind", "/proc/self/ns/mnt", "", ""},
		{"our own is not the container's", "/proc/self/ns/net", "", ""},
		{"our own, when that is meant", "/proc/self/ns/net", "1", "/proc/self/ns/net"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := soundEnv("DEL")
			env["CNI_NETNS"], env["CNI_NETNS_OVERRIDE"] = tt.netns, tt.override
			a := serve(env, soundConfig, nil)
			if a.status != 0 || a.called != Del || a.req.NetNS != tt.want {
				t.Errorf("got status %d, %q called with netns %q, want netns %q", a.status, a.called, a.req.NetNS, tt.want)
			}
		})
	}
}

func TestArgs(t *testing.T) {
	env := soundEnv("ADD")
	env["CNI_ARGS"] = "IgnoreUnknown=1;IP=10.0.0.2/24;K8S_POD_NAME=a=b;"
	want := map[string]string{"IgnoreUnknown": "1", "IP": "10.0.0.2/24", "K8S_POD_NAME": "a=b"}
	if got := serve(env, soundConfig, &Result{}).req.Args; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVersionEchoes(t *testing.T) {
	tests := []struct{ name, config, want string }{
		{"old", `{"cniVersion":"0.4.0"}`, "0.4.0"},
		{"newer than we are", `{"cniVersion":"2.0.0"}`, "2.0.0"},
		{"no input", ``, "1.1.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := serve(map[string]string{"CNI_COMMAND": "VERSION"}, tt.config, nil)
			var got struct {
				CNIVersion        string
				SupportedVersions []string
			}
			if err := json.Unmarshal([]byte(a.out), &got); err != nil || a.status != 0 {
				t.Fatalf("status %d, answer %q: %v", a.status, a.out, err)
			}
			if got.CNIVersion != tt.want || len(got.SupportedVersions) != 7 {
				t.Errorf("got %+v, want cniVersion %s and seven versions", got, tt.want)
			}
		})
	}
}

func newestResult() *Result {
	table := 100
	return &Result{
		CNIVersion: "1.1.0",
		Interfaces: []*types100.Interface{{Name: "eth0", Mac: "0a:58:0a:00:00:02", Mtu: 1400, Sandbox: "/run/netns/x"}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(0), Address: net.IPNet{IP: net.IP{10, 0, 0, 2}, Mask: net.CIDRMask(24, 32)}}},
		Routes:     []*types.Route{{Dst: net.IPNet{IP: net.IP{0, 0, 0, 0}, Mask: net.CIDRMask(0, 32)}, MTU: 1300, Priority: 7, Table: &table}},
	}
}

// A caller of an older version must not get the fields of interfaces that are new in 1.1.0; it
// must get those of routes, without which the route would be a different one; and it must get
// what 0.4.0 requires.
func TestResultInTheCallersVersion(t *testing.T) {
	tests := []struct {
		version      string
		want, absent []string
	}{
		{"1.1.0", []string{`"mtu": 1400`, `"priority": 7`, `"table": 100`}, []string{`"version"`}},
		{"1.0.0", []string{`"interface": 0`, `"mtu": 1300`, `"priority": 7`, `"table": 100`}, []string{`"mtu": 1400`, `"version"`}},
		{"0.4.0", []string{`"version": "4"`, `"interface": 0`, `"mtu": 1300`, `"priority": 7`, `"table": 100`}, []string{`"mtu": 1400`}},
		{"0.3.1", []string{`"version": "4"`, `"mtu": 1300`, `"priority": 7`, `"table": 100`}, []string{`"mtu": 1400`}},
		{"0.2.0", []string{`"ip4"`}, []string{"mtu", "priority", "interfaces"}}, // as the library converts
	}
	for _, tt := range tests {
		t.Run(tt.version, func(t *testing.T) {
			a := serve(soundEnv("ADD"), `{"cniVersion":"`+tt.version+`","name":"net"}`, newestResult())
			if a.status != 0 {
				t.Fatalf("status %d: %s", a.status, a.out)
			}
			for _, want := range append(tt.want, `"cniVersion": "`+tt.version+`"`) {
				if !strings.Contains(a.out, want) {
					t.Errorf("got %s, want %s in it", a.out, want)
				}
			}
			for _, absent := range tt.absent {
				if strings.Contains(a.out, absent) {
					t.Errorf("got %s, want no %s in it", a.out, absent)
				}
			}
		})
	}
}

func TestPassThroughKeepsUnknownFields(t *testing.T) {
	const prev = `{"cniVersion":"1.0.0","ips":[],"fromTheFuture":{"a":[1,2]}}`
	r := &Request{Version: "1.0.0", Stdin: []byte(`{"prevResult":` + prev + `}`)}
	result, err := r.PassThrough()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := writeResult(&out, "1.0.0", result); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(prev, strings.TrimSpace(out.String())); diff != "" {
		t.Error(diff)
	}
	if _, err := (&Request{Stdin: []byte(`{}`)}).PassThrough(); CodeOf(err) != CodeConfig {
		t.Errorf("without prevResult: got %v, want code %d", err, CodeConfig)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestAddIsTakenBackWhenItsAnswerIsLost(t *testing.T) {
	deleted := false
	p := Plugin{
		Add: func(*Request) (types.Result, error) { return newestResult(), nil },
		Del: func(*Request) error { deleted = true; return nil },
	}
	env := soundEnv("ADD")
	status := p.serve(func(k string) string { return env[k] }, strings.NewReader(soundConfig), fullDisk{})
	if status == 0 || !deleted {
		t.Errorf("got status %d, DEL called: %t; want 1 and true", status, deleted)
	}
}

func TestValid(t *testing.T) {
	const a, b = `{"containerID":"a","ifname":"eth0"}`, `{"containerID":"b","ifname":"eth0"}`
	tests := []struct {
		name, config string
		known        bool
		keeps        []string
	}{
		{"absent", `{}`, false, nil},
		{"null", `{"cni.dev/valid-attachments":null}`, false, nil},
		{"empty", `{"cni.dev/valid-attachments":[]}`, true, nil},
		{"the spec's name", `{"cni.dev/valid-attachments":[` + a + `]}`, true, []string{"a"}},
		{"libcni's name", `{"cni.dev/attachments":[` + b + `]}`, true, []string{"b"}},
		{"both", `{"cni.dev/valid-attachments":[` + a + `],"cni.dev/attachments":[` + b + `]}`, true, []string{"a", "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &Request{Owner: Owner{Network: "net"}, Stdin: []byte(tt.config)}
			valid, err := r.Valid()
			if err != nil || valid.Known != tt.known {
				t.Fatalf("got known %t, error %v, want known %t", valid.Known, err, tt.known)
			}
			for _, id := range []string{"a", "b"} {
				o := Owner{"net", id, "eth0"}
				want := strings.Contains(strings.Join(tt.keeps, ","), id)
				if valid.Keeps(o) != want || valid.KeepsLabel(o.String()) != want {
					t.Errorf("%s kept: got %t and %t, want %t", id, valid.Keeps(o), valid.KeepsLabel(o.String()), want)
				}
			}
		})
	}
}

// TestValidWithoutNames: an entry without a name may mean any live attachment, so the list is
// refused and GC removes nothing.
func TestValidWithoutNames(t *testing.T) {
	for _, tt := range []struct{ entry, field string }{
		{`{"containerID":"b"}`, "ifname"},
		{`{"containerID":"b","ifname":""}`, "ifname"},
		{`{"id":"b","ifname":"eth0"}`, "containerID"},
		{`{}`, "containerID"},
		{`null`, "containerID"},
	} {
		r := &Request{Owner: Owner{Network: "net"}, Stdin: []byte(`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},` + tt.entry + `]}`)}
		valid, err := r.Valid()
		if CodeOf(err) != CodeDecode || valid.Known || !strings.Contains(err.Error(), "cni.dev/valid-attachments[1]."+tt.field+":") {
			t.Errorf("%s: got %+v, %v, want no list, and an error of code %d that names %s", tt.entry, valid, err, CodeDecode, tt.field)
		}
	}
}

// TestValidTwice: several kinds of state, and the IPAM plugin, read the list of one request,
// and each decodes its own keys.
func TestValidTwice(t *testing.T) {
	r := &Request{Owner: Owner{Network: "net"}, Stdin: []byte(`{"MTU":1400,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"ipam":{"type":"host-local"}}`)}
	for range 2 {
		valid, err := r.Valid()
		if err != nil || !valid.Known || !valid.Keeps(Owner{"net", "a", "eth0"}) {
			t.Errorf("got %+v, %v, want a list with a", valid, err)
		}
		var keys struct {
			MTU  int
			IPAM struct{ Type string }
			List []inUse `json:"cni.dev/valid-attachments"`
		}
		if err := r.Decode(&keys); err != nil || keys.MTU != 1400 || keys.IPAM.Type != "host-local" || keys.List != nil {
			t.Errorf("got %+v, %v, want mtu and ipam.type, and no list", keys, err)
		}
	}
	if !bytes.Contains(r.Stdin, []byte("valid-attachments")) {
		t.Error("another program's IPAM plugin is sent no list")
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add("ADD", "c1", "eth0", "IP=10.0.0.1", soundConfig)
	f.Add("GC", "", "", "", `{"cni.dev/valid-attachments":[{}]}`)
	f.Fuzz(func(t *testing.T, command, id, ifName, args, config string) {
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": id, "CNI_IFNAME": ifName, "CNI_ARGS": args, "CNI_NETNS": "x"}
		r, err := readRequest(func(k string) string { return env[k] }, strings.NewReader(config))
		if err != nil || r.Command == Version {
			return
		}
		for _, part := range []string{r.Owner.Network, r.Owner.ContainerID, r.Owner.IfName} {
			if strings.ContainsAny(part, "/\x00") || part == "." || part == ".." {
				t.Errorf("%q is let through and would be part of a path", part)
			}
		}
	})
}

// FuzzValid: a list is refused, or keeps every attachment that it names.
func FuzzValid(f *testing.F) {
	f.Add([]byte(`{"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"cni.dev/attachments":null}`))
	f.Add([]byte(`{"cni.dev/attachments":[null,{}],"CNI.DEV/valid-attachments":{}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		valid, err := (&Request{Owner: Owner{Network: "net"}, Stdin: config}).Valid()
		if err != nil && (valid.Known || CodeOf(err) != CodeDecode) {
			t.Errorf("got a list beside the error %v", err)
		}
		for _, o := range valid.Owners() {
			if !valid.Keeps(o) || !valid.KeepsLabel(o.String()) || !valid.KeepsContainer(o.ContainerID) {
				t.Errorf("%v is in the list and not kept", o)
			}
		}
	})
}

// FuzzParseOwner: the owner that is read of a label has that label.
func FuzzParseOwner(f *testing.F) {
	f.Add("net/c1/eth0")
	f.Add("a//b")
	f.Fuzz(func(t *testing.T, label string) {
		if o, ok := ParseOwner(label); ok && len(label) < maxLabelPart && o.String() != label {
			t.Errorf("%q is read as the label of %q", label, o)
		}
	})
}
