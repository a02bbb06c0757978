package validate

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// document is JSON with the position of each value.
type document struct {
	data []byte
	root hujson.Value
	err  error
}

func newDocument(data []byte) *document {
	d := &document{data: data}
	d.root, d.err = hujson.Parse(data)
	return d
}

func asSyntax(err error, wrong **json.SyntaxError) bool { return errors.As(err, wrong) }

// position converts an offset to line and column, both from 1; columns count bytes.
func (d *document) position(offset int) (line, column int) {
	before := string(d.data[:min(max(offset, 0), len(d.data))])
	return strings.Count(before, "\n") + 1, len(before) - strings.LastIndex(before, "\n")
}

// members are an object's members; none for any other value.
func members(v hujson.Value) []hujson.ObjectMember {
	if object, ok := v.Value.(*hujson.Object); ok {
		return object.Members
	}
	return nil
}

func elements(v hujson.Value) []hujson.Value {
	if array, ok := v.Value.(*hujson.Array); ok {
		return array.Elements
	}
	return nil
}

func nameOf(m hujson.ObjectMember) string {
	literal, _ := m.Name.Value.(hujson.Literal) // the parser accepts no other names
	return literal.String()
}

// text is the value of a string; ok is false for any other value.
func text(v hujson.Value) (s string, ok bool) {
	literal, isLiteral := v.Value.(hujson.Literal)
	if !isLiteral || literal.Kind() != '"' {
		return "", false
	}
	return literal.String(), true
}

// member is the member with that name, in any letter case.
func member(v hujson.Value, name string) (found hujson.Value, ok bool) {
	for _, m := range members(v) {
		if strings.EqualFold(nameOf(m), name) {
			return m.Value, true
		}
	}
	return hujson.Value{}, false
}

// locate is the offset of the value at a path such as "plugins[0].ipam.type", or of the
// nearest one above it.
func (d *document) locate(path string) int {
	at := d.root
	offset := at.StartOffset
	for _, step := range steps(path) {
		next, ok := hujson.Value{}, false
		if index, err := strconv.Atoi(step); err == nil {
			if list := elements(at); index < len(list) {
				next, ok = list[index], true
			}
		} else {
			next, ok = member(at, step)
		}
		if !ok {
			break
		}
		at, offset = next, next.StartOffset
	}
	return offset
}

// steps splits a path into names and indexes.
func steps(path string) []string {
	return strings.FieldsFunc(strings.ReplaceAll(path, "]", ""), func(r rune) bool { return r == '.' || r == '[' })
}
