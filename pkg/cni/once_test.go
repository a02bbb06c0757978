package cni

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// onceInner is embedded, as parts of configurations and records are.
type onceInner struct {
	Subnet  string   `json:"subnet"`
	Exclude []string `json:"exclude"`
}

type onceStamp struct {
	Time  time.Time `json:"time,omitzero"`
	Inode uint64    `json:"ino,omitempty"`
}

// onceLists takes one thing in place of a list, as configurations may.
type onceLists []onceInner

func (o *onceLists) UnmarshalJSON(data []byte) error {
	if data[0] != '{' {
		return json.Unmarshal(data, (*[]onceInner)(o))
	}
	*o = append(*o, onceInner{})
	return json.Unmarshal(data, &(*o)[0])
}

// onceSample has a field of each kind that configurations, records and results have, and of
// some that they do not have.
type onceSample struct {
	onceInner
	Stamp    onceStamp `json:"stamp"`
	Name     string
	On       bool            `json:"on"`
	Small    int8            `json:"small"`
	Port     uint16          `json:"port,omitempty"`
	Maybe    *bool           `json:"maybe,omitempty"`
	Index    *int            `json:"index"`
	Sub      *onceInner      `json:"sub,omitempty"`
	Raw      json.RawMessage `json:"raw,omitempty"`
	Address  netip.Addr      `json:"address,omitzero"`
	Prefixes []netip.Prefix  `json:"prefixes"`
	GW       net.IP          `json:"gw,omitempty"`
	Flags    map[string]bool `json:"flags,omitempty"`
	Sets     []onceLists     `json:"sets,omitempty"`
	Number   json.Number     `json:"number,omitempty"`
	Any      any             `json:"any,omitempty"`
	Bytes    []byte          `json:"bytes,omitempty"`
	Rate     float64         `json:"rate,omitempty"`
	Hidden   string          `json:"-"`
}

// onceShadowed has two fields of the same name, of which encoding/json takes the outer one.
type onceShadowed struct {
	onceInner
	Subnet int `json:"subnet"`
}

// onceQuoted has an option that is left to the library.
type onceQuoted struct {
	Port int `json:"port,string"`
}

// onceNamed is embedded under a name, which makes it a field like others.
type onceNamed struct {
	onceInner `json:"inner"`
}

// onceEven encodes itself, and so does a struct without a name that embeds it.
type onceEven struct{ N int }

func (e *onceEven) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &e.N) }
func (e onceEven) MarshalJSON() ([]byte, error)     { return json.Marshal(2 * e.N) }

// onceSwitch is zero when it is 1, which its pointer knows.
type onceSwitch int

func (s *onceSwitch) IsZero() bool { return *s == 1 }

// onceOmitted has fields about whose omission kinds and methods decide.
type onceOmitted struct {
	Array   [2]int     `json:"array,omitempty"`
	Switch  onceSwitch `json:"switch,omitzero"`
	Pointer *time.Time `json:"pointer,omitzero"`
}

func onceSeeds() []string {
	return []string{
		`{}`, `[]`, `null`, `"text"`, `17`, ` { } `, ``, `{`, `{"Name":}`,
		`{"Name":"a","on":true,"small":-128,"port":65535,"subnet":"10.1.0.0/16","exclude":["a","b"]}`,
		"{ \"NAME\" : \"a\" ,\n\t\"Subnet\":\"x\" , \"unknown\": {\"a\":[1,{\"b\":\"]}\"}]} , \"on\":false }",
		`{"Name":"a\"b","on":true}`, `{"Name":"ä"}`, `{"Name":"<&>"}`, "{\"Name\":\"\xff\"}", `{"na\u006de":"a"}`, `{"ſmall":1,"ſubnet":"a"}`,
		`{"small":128}`, `{"small":1.0}`, `{"small":1e1}`, `{"small":-0}`, `{"port":-1}`, `{"small":"1"}`, `{"on":1}`, `{"Name":1}`,
		`{"maybe":true,"index":0,"sub":{"subnet":"a"}}`, `{"maybe":null,"index":null,"sub":null,"flags":null,"prefixes":null,"Name":null,"raw":null,"address":null}`,
		`{"Name":"a","name":"b"}`, `{"sub":{"subnet":"a"},"sub":{"exclude":[]}}`, `{"flags":{"a":true,"b":false,"a":false}}`,
		`{"raw":{"a":[1, 2]},"address":"10.1.0.1","prefixes":["10.0.0.0/8","fd00::/8"],"gw":"10.1.0.1"}`, `{"address":"x"}`, `{"prefixes":[1]}`, `{"gw":7}`,
		`{"sets":[{"subnet":"a"},[{"subnet":"b"},{"exclude":["c"]}],[]]}`, `{"sets":[[7]]}`, `{"sets":{}}`, `{"sets":[null]}`,
		`{"number":17}`, `{"number":"17"}`, `{"number":"x"}`, `{"any":{"a":1}}`, `{"bytes":"YQ=="}`, `{"rate":0.5}`, `{"-":"x","Hidden":"x"}`,
		`{"stamp":{"time":"2026-01-02T03:04:05Z","ino":4026531840}}`, `{"stamp":{"time":"yesterday"}}`, `{"stamp":[]}`,
		`{"exclude":[]}`, `{"exclude":["a",]}`, `{"exclude":[ ]}`, `{"subnet":7}`, `{"subnet":"7"}`, `{"port":"7"}`, `{"port":7}`, `{} {}`,
		`{"inner":{"subnet":"a"}}`, `2`, `{"sub":{"subnet":null}}`, `{"sub":{"subnet":1}}`, `{"sub":{"subnet":"a","subnet":"b"}}`, `{"index":"x"}`,
		`{"array":[0,0],"switch":1,"pointer":"0001-01-01T00:00:00Z"}`, `{"switch":2}`, `{"array":[1,2],"pointer":"2026-01-02T03:04:05Z"}`,
	}
}

// FuzzUnmarshalOnce: whatever the bytes are, the values and errors are those of encoding/json,
// and what it reads is written as encoding/json writes it.
func FuzzUnmarshalOnce(f *testing.F) {
	for _, seed := range onceSeeds() {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, start := range []any{
			onceSample{},
			onceShadowed{},
			onceQuoted{},
			onceNamed{},
			onceOmitted{},
			struct{ onceEven }{},
			wireResult{},
			map[string]json.RawMessage(nil),
			map[string]int{"a": 1},
			[]int(nil), "", 0, any(nil),
			onceBefore(),
		} {
			if start == nil {
				continue
			}
			wanted, got := reflect.New(reflect.TypeOf(start)), reflect.New(reflect.TypeOf(start))
			wanted.Elem().Set(reflect.ValueOf(copyOnce(start)))
			got.Elem().Set(reflect.ValueOf(copyOnce(start)))
			wantErr := json.Unmarshal(data, wanted.Interface())
			err := UnmarshalOnce(data, got.Interface())
			if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Fatalf("%T from %s: error %v, want %v", start, data, err, wantErr)
			}
			if !reflect.DeepEqual(got.Interface(), wanted.Interface()) {
				t.Fatalf("%T from %s: %+v, want %+v", start, data, got.Elem(), wanted.Elem())
			}
			for _, v := range []any{wanted.Interface(), wanted.Elem().Interface()} {
				wantData, wantErr := json.Marshal(v)
				gotData, err := MarshalOnce(v)
				if (err == nil) != (wantErr == nil) || !bytes.Equal(gotData, wantData) {
					t.Fatalf("%T: %s (error %v), want %s (error %v)", v, gotData, err, wantData, wantErr)
				}
			}
		}
	})
}

// onceBefore is a sample in which everything is set before.
func onceBefore() onceSample {
	index := 5
	return onceSample{
		onceInner: onceInner{Exclude: []string{"before"}},
		Name:      "before",
		Index:     &index,
		Sub:       &onceInner{Subnet: "before"},
		Raw:       json.RawMessage(`"before"`),
		Flags:     map[string]bool{"before": true},
	}
}

// copyOnce is a copy whose pointers, lists and maps are its own.
func copyOnce(v any) any {
	switch v.(type) {
	case onceSample:
		if !reflect.ValueOf(v).IsZero() {
			return onceBefore()
		}
	case map[string]int:
		return map[string]int{"a": 1}
	}
	return v
}

// TestOnceWithoutTheLibrary: what plugins read and write in an ADD is not left to the library,
// and its oddities are.
func TestOnceWithoutTheLibrary(t *testing.T) {
	for _, c := range []struct {
		name, data string
		to         any
		want       bool
	}{
		{"a configuration", `{"Name":"a","on":true,"subnet":"b","sets":[[{"subnet":"c"}]],"flags":{"a":true},"raw":[1],"unknown":{"a":1}}`, &onceSample{}, true},
		{"a record", `{"stamp":{"time":"2026-01-02T03:04:05Z","ino":1},"prefixes":["10.0.0.0/8"],"address":"10.1.0.1","sub":{"exclude":null}}`, &onceSample{}, true},
		{"a result", `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01"}],"ips":[{"interface":0,"address":"10.1.0.2/16"}]}`, &wireResult{}, true},
		{"an escape", `{"Name":"\u0061"}`, &onceSample{}, false},
		{"a key twice", `{"Name":"a","name":"b"}`, &onceSample{}, false},
		{"a wrong type", `{"Name":1}`, &onceSample{}, false},
		{"two fields of the same name", `{"subnet":1}`, &onceShadowed{}, false},
		{"an option of the tag", `{"port":"1"}`, &onceQuoted{}, false},
		{"what is set before", `{"subnet":"a"}`, &onceInner{Subnet: "b"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := unmarshalPlain([]byte(c.data), c.to); got != c.want {
				t.Errorf("decoded here: %v, want %v", got, c.want)
			}
			if _, got := encodeOnce(nil, reflect.ValueOf(c.to)); c.want && got != !strings.Contains(c.data, "flags") {
				t.Errorf("encoded here: %v", got) // maps, which nothing of ours writes, are left to the library
			}
		})
	}
}
