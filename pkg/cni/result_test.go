package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestPrevResultInAnotherVersion: a prevResult without a version is read in that of the
// configuration, others in their own; the answer is in the configuration's either way.
func TestPrevResultInAnotherVersion(t *testing.T) {
	tests := []struct {
		name, config, prev string
		answer             string // of PassThrough
	}{
		{"none", "1.0.0", `{"ips":[{"address":"10.0.0.2/24"}],"future":1}`, `{"cniVersion":"1.0.0","future":1,"ips":[{"address":"10.0.0.2/24"}]}`},
		{"none, before 1.0.0", "0.4.0", `{"ips":[{"version":"4","address":"10.0.0.2/24"}]}`, `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`},
		{"none, before 0.3.0", "0.2.0", `{"ip4":{"ip":"10.0.0.2/24"}}`, `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`},
		{"newer", "0.4.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`, `{"cniVersion":"0.4.0","dns":{},"ips":[{"version":"4","address":"10.0.0.2/24"}]}`},
		{"older", "1.0.0", `{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"}]}`, `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}`},
		{"of another shape", "1.1.0", `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`, `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &Request{Version: tt.config, Stdin: []byte(`{"prevResult":` + tt.prev + `}`)}
			prev, err := r.PrevResult()
			if err != nil || len(prev.IPs) != 1 || prev.IPs[0].Address.String() != "10.0.0.2/24" {
				t.Fatalf("got %v, %v, want the address", prev, err)
			}
			passed, err := r.PassThrough()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := writeResult(&out, tt.config, passed); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decoded(t, tt.answer), decoded(t, out.String())); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func decoded(t *testing.T, text string) (value map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return value
}

// TestResultsThatCannotBe: each invalid result, in every version's format, is an error of code 6
// that names the place.
func TestResultsThatCannotBe(t *testing.T) {
	for _, tt := range []struct{ name, prev, want string }{
		{"interfaces", `{"cniVersion":"%","interfaces":[{"name":"x"},null]}`, "prevResult.interfaces[1]: null"},
		{"ips", `{"cniVersion":"%","ips":[null]}`, "prevResult.ips[0]: null"},
		{"routes", `{"cniVersion":"%","routes":[null],"dns":null}`, "prevResult.routes[0]: null"},
		{"no version either", `{"ips":[null]}`, "prevResult.ips[0]: null"},
		{"a list", `[null]`, "prevResult: "},
		{"text", `"null"`, "prevResult: "},
		{"unknown version", `{"cniVersion":"9.9.9"}`, "9.9.9"},
	} {
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			r := &Request{Version: version, Stdin: []byte(`{"prevResult":` + strings.ReplaceAll(tt.prev, "%", version) + `}`)}
			if _, err := r.PrevResult(); CodeOf(err) != CodeDecode || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s in %s: got %v, want code 6 and %q", tt.name, version, err, tt.want)
			}
		}
	}
	for _, harmless := range []string{`{"interfaces":null,"ips":null,"routes":null,"dns":null}`, `{"ips":[{"address":"10.0.0.2/24","gateway":null}]}`} {
		r := &Request{Version: "1.0.0", Stdin: []byte(`{"prevResult":` + harmless + `}`)}
		if _, err := r.PrevResult(); err != nil {
			t.Errorf("%s: got %v", harmless, err)
		}
	}
}

// TestResultAsTheLibraryWritesIt: writeNewest writes the same bytes as the library.
func TestResultAsTheLibraryWritesIt(t *testing.T) {
	named := newestResult()
	named.DNS.Nameservers = []string{"10.0.0.1"}
	for _, result := range []*Result{newestResult(), named, {}} {
		var ours, theirs bytes.Buffer
		if err := writeResult(&ours, "1.1.0", result); err != nil {
			t.Fatal(err)
		}
		converted, err := result.GetAsVersion(types100.ImplementedSpecVersion)
		if err != nil {
			t.Fatal(err)
		}
		if err := converted.PrintTo(&theirs); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(t, theirs.String()), decoded(t, ours.String())); diff != "" {
			t.Errorf("-library +ours:\n%s", diff)
		}
	}
}

// FuzzParseResult: no input panics, and results are those of the library.
func FuzzParseResult(f *testing.F) {
	f.Add("1.0.0", `{"interfaces":[null],"ips":[{"address":"10.0.0.2/24","interface":-1}],"routes":[null]}`)
	f.Add("0.2.0", `{"ip4":{"ip":"10.0.0.2/24","routes":[null]},"ip6":null}`)
	f.Add("0.4.0", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":null}]}`)
	f.Add("1.0.0", `{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1400,"sandbox":"/run/netns/a","socketPath":"/s","pciID":"p"}],"ips":[{"interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"::ffff:10.0.0.2/120"}],"dns":{"nameservers":["10.0.0.1"],"search":[]}}`)
	f.Add("1.1.0", `{"routes":[{"dst":"10.1.2.3/8","gw":"::ffff:10.0.0.1","mtu":1400,"advmss":1,"priority":-0,"table":0,"scope":253},{"dst":"::/0","gw":""}],"ips":[],"dns":null,"more":1}`)
	f.Add("1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24","interface":1}],"ips":[{"gateway":"10.0.0.1"}]}`)
	f.Add("1.1.0", `{"routes":[{"dst":"10.0.0.0/8"}],"Routes":[{"mtu":1}],"interfaces":[{"name":"a"}],"interfaces":[{"mac":"b"}]}`)
	f.Add("1.0.0", `{"ips":[{"address":"x"}]}`)
	f.Add("1.0.0", `{"routes":[{"gw":"10.0.0.1"}],"ips":[{}]}`)
	f.Fuzz(func(t *testing.T, version, raw string) {
		result, err := ParseResult("prevResult", []byte(raw), version)
		if err != nil {
			return
		}
		for _, ip := range result.IPs {
			if ip == nil {
				t.Error("an address is nil")
			}
		}
		versioned, version, err := withVersion([]byte(raw), version)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := create.Create(version, versioned)
		if err != nil {
			t.Fatalf("%s: got %v, but the library says: %v", raw, result, err)
		}
		if theirs, err = theirs.GetAsVersion(types100.ImplementedSpecVersion); err != nil {
			t.Fatal(err)
		}
		sameBytes := cmp.FilterValues(func(a, b net.IP) bool { return len(a)+len(b) > 0 },
			cmp.Comparer(func(a, b net.IP) bool { return string(a) == string(b) }))
		if diff := cmp.Diff(theirs, types.Result(result), cmpopts.EquateEmpty(), sameBytes); diff != "" {
			t.Errorf("%s: -library +ours:\n%s", raw, diff)
		}
		compareWritten(t, result)
	})
}

// compareWritten checks that the result, if it can be written, is written byte by byte as by the
// library's types.
func compareWritten(t *testing.T, r *Result) {
	t.Helper()
	parts := struct {
		CNIVersion string                `json:"cniVersion"`
		Interfaces []*types100.Interface `json:"interfaces,omitempty"`
		IPs        []*types100.IPConfig  `json:"ips,omitempty"`
		Routes     []*types.Route        `json:"routes,omitempty"`
		DNS        *types.DNS            `json:"dns,omitempty"`
	}{"1.1.0", r.Interfaces, r.IPs, r.Routes, nil}
	if !r.DNS.IsEmpty() {
		parts.DNS = &r.DNS
	}
	theirs, theirErr := json.MarshalIndent(parts, "", "    ")
	var ours bytes.Buffer
	err := writeResult(&ours, "1.1.0", r)
	if (err == nil) != (theirErr == nil) {
		t.Fatalf("got %v, want %v", err, theirErr)
	}
	if got, want := ours.String(), string(theirs)+"\n"; err == nil && got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAddressesAndLinksOfAResult(t *testing.T) {
	result, err := ParseResult("result", []byte(`{"cniVersion": "1.1.0",
		"interfaces": [{"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/a"}, {"name": "eth1", "sandbox": "/run/netns/a"}],
		"ips": [{"address": "10.1.0.5/24", "interface": 2}, {"address": "fd00::5/64"}, {"address": "10.2.0.5/16", "interface": 3}, {"address": "10.3.0.5/8", "interface": 9}]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	for ifName, want := range map[string]string{
		"eth0": "[10.1.0.5/24 fd00::5/64 10.3.0.5/8]",
		"eth1": "[fd00::5/64 10.2.0.5/16 10.3.0.5/8]",
		"br0":  "[fd00::5/64 10.3.0.5/8]",
		"":     "[10.1.0.5/24 fd00::5/64 10.2.0.5/16 10.3.0.5/8]",
	} {
		if got := fmt.Sprint(AddressesOf(result, ifName)); got != want {
			t.Errorf("addresses of %q: got %s, want %s", ifName, got, want)
		}
	}
	if got := fmt.Sprint(HostLinks(result)); got != "[br0 veth1]" {
		t.Errorf("got links %s, want br0 and veth1", got)
	}
	if AddressesOf(nil, "eth0") != nil || HostLinks(nil) != nil {
		t.Error("got something of no result")
	}
}

func TestRequirePrevResult(t *testing.T) {
	for command, want := range map[Command]string{Add: "comes after another one", Check: "needs the result of the ADD"} {
		_, err := (&Request{Command: command, Version: "1.1.0", Stdin: []byte(`{"prevResult": null}`)}).RequirePrevResult()
		if err == nil || CodeOf(err) != CodeConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want code %d and %q", command, err, CodeConfig, want)
		}
	}
	if got, err := (&Request{Version: "1.1.0", Stdin: []byte(`{"prevResult": {}}`)}).RequirePrevResult(); got == nil || err != nil {
		t.Errorf("got %v, %v, want the empty result", got, err)
	}
}
