package cluster

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
)

// extra is what a document has that this release does not know: it is written back
// as it came, so that an old host undoes nothing of a newer one's.
type extra map[string]json.RawMessage

// unmarshalKeeping reads data into the struct that known points to, and gives the rest.
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
		delete(all, name)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// equal says whether both are the same when they are written.
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
