package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// TestPlain: the message names the full path of the field, value and way out, and no Go types.
func TestPlain(t *testing.T) {
	type inner struct {
		Subnet string `json:"subnet"`
	}
	type Shared struct {
		Rate int `json:"rate"`
	}
	type to struct {
		Dst *types.IPNet `json:"dst"`
	}
	var doc struct {
		Shared
		Nested struct{ Shared }  `json:"nested"`
		MTU    int               `json:"mtu"`
		Gate   bool              `json:"isGateway"`
		Ranges []inner           `json:"ranges"`
		IPAM   inner             `json:"ipam"`
		Labels map[string]string `json:"labels"`
		Prefix netip.Prefix      `json:"prefix"`
		Mask   *bool             `json:"mask"`
		Share  float64           `json:"share"`
		GW     net.IP            `json:"gw"`
		List   [][]to            `json:"list"`
		Routes Routes            `json:"routes"`
	}
	tooWide := `routes[0].table: 4294967296 is out of bounds; use 0 to 4294967295`
	if strconv.IntSize == 32 {
		tooWide = `routes[0].table: the number 4294967296 is not a whole number, or too large or too small; write another`
	}
	for in, want := range map[string]string{
		`{"mtu": "1500"}`:                       `mtu: a string stands where a whole number belongs; write it without quotes`,
		`{"mtu": 1.5}`:                          `mtu: the number 1.5 is not a whole number, or too large or too small; write another`,
		`{"mtu": [1]}`:                          `mtu: a list stands where a whole number belongs; write it without brackets`,
		`{"isGateway": "true"}`:                 `isGateway: a string stands where true or false belongs; write it without quotes`,
		`{"mask": 1}`:                           `mask: a number stands where true or false belongs`,
		`{"share": "1"}`:                        `share: a string stands where a number belongs; write it without quotes`,
		`{"ranges": {}}`:                        `ranges: an object stands where a list belongs; write it in brackets, […]`,
		`{"ranges":[{"subnet": 1}]}`:            `ranges[0].subnet: a number stands where text belongs; write it in quotes, "…"`,
		`{"ipam": {"subnet": true}}`:            `ipam.subnet: true or false stands where text belongs; write it in quotes, "…"`,
		`{"ipam": "x"}`:                         `ipam: a string stands where an object belongs; write it in braces, {…}`,
		`{"labels": {"a": 1}}`:                  `labels.a: a number stands where text belongs; write it in quotes, "…"`,
		`{"prefix": 1}`:                         `prefix: a number stands where text belongs; write it in quotes, "…"`,
		`{"rate": "1"}`:                         `rate: a string stands where a whole number belongs; write it without quotes`,
		`{"nested": {"rate": "1"}}`:             `nested.rate: a string stands where a whole number belongs; write it without quotes`,
		`{"list":[[{}],[{},{"dst":"x"}]]}`:      `list[1][1].dst: "x" is not an address with the length of its prefix; write it as in "10.1.0.5/24" or "fd00::5/64"`,
		`{"gw": "10.1"}`:                        `gw: "10.1" is not an address; write it as in "10.1.0.5" or "fd00::5"`,
		`{"Labels": {"a.b": "", "a\u0063": 1}}`: `labels.ac: a number stands where text belongs; write it in quotes, "…"`,
		`{"routes": [{"dst": "::/0"}, {"dst": "::/0", "gw": "x"}]}`: `routes[1].gw: "x" is not an address; write it as in "10.1.0.5" or "fd00::5"`,
		`{"routes": [{"dst": "::/0", "scope": 256}]}`:               `routes[0].scope: 256 is out of bounds; use 0 to 255`,
		`{"routes": [{"dst": "::/0", "mtu": -1}]}`:                  `routes[0].mtu: -1 is out of bounds; use 0 to 4294967295`,
		`{"routes": [{"dst": "::/0", "table": 4294967296}]}`:        tooWide,
		`{"routes": [null]}`:                                        `routes[0].dst: "" is not a prefix like 10.0.0.0/8; for a default route write 0.0.0.0/0 or ::/0`,
		`{"routes": [1]}`:                                           `routes[0]: a number stands where an object belongs; write it in braces, {…}`,
		`[]`:                                                        `a list stands where an object belongs; write it without brackets`,
	} {
		err := Unmarshal([]byte(in), &doc)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
	}
	err := Plain(fmt.Errorf("file x: %w (y)", json.Unmarshal([]byte(`{"mtu": ""}`), &doc)))
	if got := err.Error(); !strings.HasPrefix(got, "file x: mtu: a string") || !strings.HasSuffix(got, " (y)") {
		t.Errorf("got %s, want what wraps it to stay", got)
	}
	if err := Unmarshal([]byte(`{`), &doc); err == nil || strings.Contains(err.Error(), "stands") {
		t.Errorf("got %v, want what is wrong with the syntax", err)
	}
}
