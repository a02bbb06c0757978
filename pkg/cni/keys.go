package cni

import (
	"encoding/json"
	"reflect"
	"strings"
)

// Key is one key of a plugin's configuration: the plugin's pages and `trestle
// validate` know it from here.
type Key struct {
	// Path is where the key stands: "mtu", "ipam.dataDir", "vlanTrunk[].id"; or
	// "CNI_ARGS MAC". Keys match without regard to case (Request.Decode). Of those
	// with a dot in their own name there are two, which begin with "cni.dev/".
	Path string
	// Type is string, boolean, integer, object, any, or "list of" one of these.
	Type string
	// Default is what counts where the key is left out, as Markdown; it may be empty.
	Default string
	// Doc is what the key means, as Markdown; it is empty where that of the key
	// above it tells.
	Doc string
	// Ours says that the reference plugin has no such key.
	Ours bool
	// Open says that any key may stand below this one.
	Open bool
}

// KeysOf are the keys that are read where a configuration is decoded into wire, a
// struct, with what docs says of them, in the order of docs. docs may have further
// ones, with their type: variables, and what stands below a key that reads itself.
func KeysOf(wire any, docs []Key) []Key {
	var read fields
	read.addStruct("", reflect.TypeOf(wire))
	keys := make([]Key, 0, len(docs)+len(read))
	for _, key := range docs {
		if at := read.index(key.Path); at >= 0 {
			key.Type = read[at].Type
			key.Open = key.Open || read[at].Open && !anyBelow(docs, key.Path)
			read = append(read[:at], read[at+1:]...)
		}
		keys = append(keys, key)
	}
	return append(keys, read...)
}

// RouteKeys are a list of routes, which types.Route reads itself.
func RouteKeys(path string) []Key {
	return []Key{
		{Path: path, Doc: "passed on into the result: `[{\"dst\": \"0.0.0.0/0\", \"gw\": \"10.1.0.1\"}]`, with all fields of spec 1.1: `mtu`, `advmss`, `priority`, `table`, `scope`"},
		{Path: path + "[].dst", Type: "string"},
		{Path: path + "[].gw", Type: "string"},
		{Path: path + "[].mtu", Type: "integer"},
		{Path: path + "[].advmss", Type: "integer"},
		{Path: path + "[].priority", Type: "integer"},
		{Path: path + "[].table", Type: "integer"},
		{Path: path + "[].scope", Type: "integer"},
	}
}

// ProtocolKeys are those that every plugin is sent, or may be.
func ProtocolKeys() []Key {
	return KeysOf(struct {
		CNIVersion    string          `json:"cniVersion"`
		Name          string          `json:"name"`
		Type          string          `json:"type"`
		Capabilities  map[string]bool `json:"capabilities"`
		Args          map[string]any  `json:"args"`
		RuntimeConfig map[string]any  `json:"runtimeConfig"`
		PrevResult    map[string]any  `json:"prevResult"`
		Spec          []inUse         `json:"cni.dev/valid-attachments"`
		Libcni        []inUse         `json:"cni.dev/attachments"`
	}{}, []Key{
		{Path: "cniVersion", Default: "`0.1.0`", Doc: "the list's version of the CNI spec; results and errors are answered in it"},
		{Path: "name", Doc: "the list's, and so the network's, name: part of each attachment's owner"},
		{Path: "type", Doc: "the plugin's file in CNI_PATH"},
		{Path: "capabilities", Doc: "`{\"portMappings\": true}`: what the runtime shall send to the plugin, as `runtimeConfig`"},
		{Path: "runtimeConfig", Doc: "put in by the runtime, according to `capabilities`"},
		{Path: "args", Doc: "put in by some runtimes, as `args.cni`"},
		{Path: "prevResult", Doc: "put in by the runtime: what the plugin before this one answered; for CHECK and DEL, what the whole list did"},
		{Path: "cni.dev/valid-attachments", Doc: "GC: the attachments that are in use; all others are removed. Without the key only what is provably dead is, and with an empty list everything"},
		{Path: "cni.dev/attachments", Doc: "the same, as libcni names it"},
	})
}

func anyBelow(keys []Key, path string) bool {
	for _, key := range keys {
		if strings.HasPrefix(key.Path, path+"[") || strings.HasPrefix(key.Path, path+".") {
			return true
		}
	}
	return false
}

// fields are keys as encoding/json finds them in a type.
type fields []Key

func (f *fields) index(path string) int {
	for i, key := range *f {
		if strings.EqualFold(key.Path, path) {
			return i
		}
	}
	return -1
}

func (f *fields) addStruct(prefix string, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && name == "":
			f.addStruct(prefix, field.Type)
		case name != "" && name != "-" && f.index(prefix+name) < 0: // one may be there in two spellings
			f.add(prefix+name, field.Type)
		}
	}
}

// add adds the key and what stands below it.
func (f *fields) add(path string, t reflect.Type) {
	*f = append(*f, Key{Path: path})
	key := len(*f) - 1
	list := ""
	for ; ; t = t.Elem() {
		if t.Kind() == reflect.Slice && t != reflect.TypeFor[json.RawMessage]() {
			list, path = list+"list of ", path+"[]"
		} else if t.Kind() != reflect.Pointer {
			break
		}
	}
	name, open := typeName(t)
	switch path {
	case "runtimeConfig", "args", "args.cni": // where each plugin finds its own
		open = true
	}
	(*f)[key].Type, (*f)[key].Open = list+name, open
	if t.Kind() == reflect.Struct && !readsItself(t) {
		f.addStruct(path+".", t)
	}
}

func typeName(t reflect.Type) (name string, open bool) {
	switch t.Kind() {
	case reflect.String:
		return "string", false
	case reflect.Bool:
		return "boolean", false
	case reflect.Map:
		return "object", true
	case reflect.Struct:
		return "object", readsItself(t)
	case reflect.Slice, reflect.Interface:
		return "any", true
	}
	return "integer", false
}

// readsItself says that the fields of the type do not tell its keys.
func readsItself(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}
