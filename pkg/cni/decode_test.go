package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestPlain: the message names field, value and way out, and no Go types.
func TestPlain(t *testing.T) {
	type inner struct {
		Subnet string `json:"subnet"`
	}
	type Shared struct {
		Rate int `json:"rate"`
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
	}
	for in, want := range map[string]string{
		`{"mtu": "1500"}`:            `mtu: a string stands where a whole number belongs; write it without quotes`,
		`{"mtu": 1.5}`:               `mtu: the number 1.5 is not a whole number, or too large or too small; write another`,
		`{"mtu": [1]}`:               `mtu: a list stands where a whole number belongs; write it without brackets`,
		`{"isGateway": "true"}`:      `isGateway: a string stands where true or false belongs; write it without quotes`,
		`{"mask": 1}`:                `mask: a number stands where true or false belongs`,
		`{"share": "1"}`:             `share: a string stands where a number belongs; write it without quotes`,
		`{"ranges": {}}`:             `ranges: an object stands where a list belongs; write it in brackets, […]`,
		`{"ranges":[{"subnet": 1}]}`: `ranges.subnet: a number stands where text belongs; write it in quotes, "…"`,
		`{"ipam": {"subnet": true}}`: `ipam.subnet: true or false stands where text belongs; write it in quotes, "…"`,
		`{"ipam": "x"}`:              `ipam: a string stands where an object belongs; write it in braces, {…}`,
		`{"labels": {"a": 1}}`:       `labels: a number stands where text belongs; write it in quotes, "…"`,
		`{"prefix": 1}`:              `prefix: a number stands where text belongs; write it in quotes, "…"`,
		`{"rate": "1"}`:              `rate: a string stands where a whole number belongs; write it without quotes`,
		`{"nested": {"rate": "1"}}`:  `nested.rate: a string stands where a whole number belongs; write it without quotes`,
		`[]`:                         `a list stands where an object belongs; write it without brackets`,
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
