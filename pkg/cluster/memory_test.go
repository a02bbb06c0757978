package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// memory is a store in memory, whose content tests can change.
type memory struct {
	id       string
	revision int64
	keys     map[string]cluster.Value
}

func newMemory() *memory { return &memory{id: "1", revision: 1, keys: map[string]cluster.Value{}} }

func (m *memory) Get(_ context.Context, prefixes ...string) (cluster.View, error) {
	view := cluster.View{Store: m.id, Revision: m.revision, Keys: map[string]cluster.Value{}}
	for key, value := range m.keys {
		for _, prefix := range prefixes {
			if key == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix) {
				view.Keys[key] = value
			}
		}
	}
	return view, nil
}

func (m *memory) Commit(_ context.Context, txn cluster.Txn) (bool, error) {
	for _, c := range txn.If {
		value, there := m.keys[c.Key]
		if c.Absent == there || there && !bytes.Equal(value.Data, c.Data) {
			return false, nil
		}
	}
	m.revision++
	for _, w := range txn.Then {
		if w.Data == nil {
			delete(m.keys, w.Key)
		} else {
			m.keys[w.Key] = cluster.Value{Data: w.Data, Revision: m.revision}
		}
	}
	return true, nil
}

func (m *memory) Watch(context.Context, string, int64, func([]cluster.Change)) error {
	return errors.New("nobody watches memory")
}

func (m *memory) clone() *memory {
	return &memory{id: m.id, revision: m.revision, keys: maps.Clone(m.keys)}
}
