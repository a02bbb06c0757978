package cni

import (
	"encoding/json"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

type keysInner struct {
	ID  *int `json:"id"`
	Raw json.RawMessage
}

type keysWire struct {
	Name   string   `json:"name"`
	Twin   string   `json:"Name"` // encoding/json matches both spellings
	On     *bool    `json:"on"`
	Words  []string `json:"words,omitempty"`
	Hidden string   `json:"-"`
	Inner  *struct {
		keysInner
		Deep [][]*keysInner    `json:"deep"`
		Map  map[string]string `json:"map"`
		Any  json.RawMessage   `json:"any"`
	} `json:"inner"`
	Routes []*types.Route `json:"routes"`
	Args   struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
}

func TestKeysOf(t *testing.T) {
	got := KeysOf(keysWire{}, append(RouteKeys("routes")[:2], []Key{
		{Path: "on", Default: "`true`", Doc: "on", Ours: true},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "variable"},
		{Path: "gone", Doc: "of a key that is read no more"},
		{Path: "inner.id", Doc: "id"},
	}...))
	want := []Key{
		{Path: "routes", Type: "list of object", Doc: RouteKeys("")[0].Doc},
		{Path: "routes[].dst", Type: "string"},
		{Path: "on", Type: "boolean", Default: "`true`", Doc: "on", Ours: true},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "variable"},
		{Path: "gone", Doc: "of a key that is read no more"},
		{Path: "inner.id", Type: "integer", Doc: "id"},
		{Path: "name", Type: "string"},
		{Path: "words", Type: "list of string"},
		{Path: "inner", Type: "object"},
		{Path: "inner.deep", Type: "list of list of object"},
		{Path: "inner.deep[][].id", Type: "integer"},
		{Path: "inner.map", Type: "object", Open: true},
		{Path: "inner.any", Type: "any", Open: true},
		{Path: "args", Type: "object", Open: true},
		{Path: "args.cni", Type: "object", Open: true},
		{Path: "args.cni.mac", Type: "string"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if undescribed := KeysOf(keysWire{}, nil); !undescribed[len(undescribed)-4].Open {
		t.Errorf("got %+v, want routes open, whose keys nobody has told", undescribed[len(undescribed)-4])
	}
}
