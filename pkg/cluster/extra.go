package cluster

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
)

// extra has the keys of a document that this release does not know. They are written back as
// they were read, so that a host does not remove what a newer release wrote.
type extra map[string]json.RawMessage

// unmarshalKeeping reads data into the struct that known points to, and returns the other keys.
// Case makes no key another one, as for encoding/json: kept as unknown it would be written twice.
func unmarshalKeeping(data []byte, known any) (extra, error) {
	if err := json.Unmarshal(data, known); err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	t := reflect.TypeOf(known).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		maps.DeleteFunc(all, func(key string, _ json.RawMessage) bool { return name != "" && strings.EqualFold(key, name) })
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// equal says whether both are the same JSON.
func (e extra) equal(other extra) bool {
	if len(e) == 0 || len(other) == 0 {
		return len(e) == len(other)
	}
	a, errA := json.Marshal(e)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

func (e extra) marshal(known any) ([]byte, error) {
	data, err := json.Marshal(known)
	if err != nil || len(e) == 0 {
		return data, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for name, value := range e {
		all[name] = value
	}
	return json.Marshal(all)
}
