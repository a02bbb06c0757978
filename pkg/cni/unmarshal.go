package cni

import (
	"cmp"
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// UnmarshalOnce is json.Unmarshal, for a process that decodes each type once: a plugin. The
// library prepares for many, so that its first use of a struct type costs several times what
// decoding a value does: with that of MarshalOnce it was a tenth of an ADD. What is not plain
// is left to the library, so that values and errors are its own (FuzzUnmarshalOnce): every
// mistake, and whatever is set before. A loop over many values of a type is faster with the
// library.
func UnmarshalOnce(data []byte, v any) error {
	if unmarshalPlain(data, v) {
		return nil
	}
	return json.Unmarshal(data, v)
}

// unmarshalPlain decodes into a zero value what is plain; otherwise it returns false, and v is
// as it was.
func unmarshalPlain(data []byte, v any) bool {
	to := reflect.ValueOf(v)
	if to.Kind() != reflect.Pointer || to.IsNil() || !to.Elem().IsZero() || !json.Valid(data) {
		return false
	}
	fresh := reflect.New(to.Type().Elem()).Elem()
	if p := (parser{data}); !decodeOnce(p.next(), fresh) {
		return false
	}
	to.Elem().Set(fresh)
	return true
}

// decodeOnce decodes into a zero value as json.Unmarshal would, or returns false.
func decodeOnce(raw []byte, v reflect.Value) bool {
	switch to := methodsOf(v).(type) {
	case json.Unmarshaler:
		return to.UnmarshalJSON(raw) == nil
	case encoding.TextUnmarshaler:
		text, ok := plainText(raw)
		return ok && to.UnmarshalText([]byte(text)) == nil
	}
	if raw[0] == 'n' { // null, which leaves it zero
		return true
	}
	switch v.Kind() {
	case reflect.String:
		text, ok := plainText(raw)
		v.SetString(text)
		return ok && v.Type() != reflect.TypeFor[json.Number]()
	case reflect.Bool:
		v.SetBool(raw[0] == 't')
		return raw[0] == 't' || raw[0] == 'f'
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(string(raw), 10, v.Type().Bits())
		v.SetInt(n)
		return err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(string(raw), 10, v.Type().Bits())
		v.SetUint(n)
		return err == nil
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decodeOnce(raw, v.Elem())
	case reflect.Slice:
		return raw[0] == '[' && v.Type().Elem().Kind() != reflect.Uint8 && decodeList(raw, v)
	case reflect.Struct:
		return raw[0] == '{' && decodeStruct(raw, v)
	case reflect.Map:
		return raw[0] == '{' && v.Type().Key() == reflect.TypeFor[string]() && decodeMap(raw, v)
	}
	return false
}

func decodeList(raw []byte, v reflect.Value) bool {
	list := reflect.MakeSlice(v.Type(), 0, 4)
	for p := (parser{raw[1:]}); p.more(); {
		element := reflect.New(v.Type().Elem()).Elem()
		if !decodeOnce(p.next(), element) {
			return false
		}
		list = reflect.Append(list, element)
	}
	v.Set(list)
	return true
}

func decodeMap(raw []byte, v reflect.Value) bool {
	v.Set(reflect.MakeMap(v.Type()))
	for p := (parser{raw[1:]}); p.more(); {
		key, ok := plainText(p.next())
		element := reflect.New(v.Type().Elem()).Elem()
		if !ok || !decodeOnce(p.next(), element) {
			return false
		}
		v.SetMapIndex(reflect.ValueOf(key), element)
	}
	return true
}

func decodeStruct(raw []byte, v reflect.Value) bool {
	fields, ok := appendFields(nil, v)
	if !ok {
		return false
	}
	for p := (parser{raw[1:]}); p.more(); {
		key, ok := plainText(p.next())
		value := p.next()
		if !ok {
			return false
		}
		f := fieldCalled(fields, key)
		if f == nil {
			continue
		}
		if f.decoded || !decodeOnce(value, f.value) {
			return false
		}
		f.decoded = true
	}
	return true
}

// structField is a field of a struct or of those that it embeds.
type structField struct {
	name    string
	option  string // omitempty, omitzero or none
	value   reflect.Value
	decoded bool
}

// appendFields appends the fields of v that encoding/json knows; ok is false if two have
// the same name, or one is not plain.
func appendFields(fields []structField, v reflect.Value) (_ []structField, ok bool) {
	t := v.Type()
	for i := range t.NumField() {
		field := t.Field(i)
		tag := field.Tag.Get("json")
		name, option, _ := strings.Cut(tag, ",")
		switch {
		case tag == "-":
			continue
		case field.Anonymous:
			if name != "" || !isPlainEmbedded(t, field.Type) {
				return nil, false
			}
			if fields, ok = appendFields(fields, v.Field(i)); !ok {
				return nil, false
			}
			continue
		case !field.IsExported():
			continue
		}
		f := structField{name: cmp.Or(name, field.Name), option: option, value: v.Field(i)}
		if !f.isPlain() || slices.ContainsFunc(fields, func(other structField) bool { return other.name == f.name }) {
			return nil, false
		}
		fields = append(fields, f)
	}
	return fields, true
}

// isPlain says whether isLeftOut can tell what the option asks. Of pointers and interfaces,
// "omitzero" asks the method IsZero unless they are nil.
func (f structField) isPlain() bool {
	switch f.option {
	case "", "omitempty":
		return true
	case "omitzero":
		return f.value.Kind() != reflect.Pointer && f.value.Kind() != reflect.Interface
	}
	return false
}

// isPlainEmbedded says whether encoding/json just adds the fields of one struct to the other.
// If that has no name, it may have methods nevertheless, the embedded one's.
func isPlainEmbedded(in, embedded reflect.Type) bool {
	return embedded.Kind() == reflect.Struct && (in.Name() != "" || reflect.PointerTo(embedded).NumMethod() == 0)
}

// fieldCalled is the field with that name, or else the first whose name differs from it only
// in case; nil if there is none.
func fieldCalled(fields []structField, key string) *structField {
	for i := range fields {
		if fields[i].name == key {
			return &fields[i]
		}
	}
	for i := range fields {
		if strings.EqualFold(fields[i].name, key) {
			return &fields[i]
		}
	}
	return nil
}

// plainText is the text of a string without escapes, which is nearly every one.
func plainText(raw []byte) (text string, ok bool) {
	if raw[0] != '"' {
		return "", false
	}
	text = string(raw[1 : len(raw)-1])
	return text, strings.IndexByte(text, '\\') < 0 && utf8.ValidString(text)
}

// parser takes the values, and the keys of objects, one by one from what is in an object,
// a list or a document of valid JSON.
type parser struct{ rest []byte }

// more says whether a value follows.
func (p *parser) more() bool {
	p.skip()
	return p.rest[0] != '}' && p.rest[0] != ']'
}

// skip skips white space and what separates values.
func (p *parser) skip() {
	for strings.IndexByte(" \t\r\n,:", p.rest[0]) >= 0 {
		p.rest = p.rest[1:]
	}
}

// next takes the next value.
func (p *parser) next() []byte {
	p.skip()
	depth, end := 0, 0
	for {
		switch p.rest[end] {
		case '"':
			for end++; p.rest[end] != '"'; end++ {
				if p.rest[end] == '\\' {
					end++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		default:
			if depth == 0 { // a number, or a word
				for end < len(p.rest) && strings.IndexByte(" \t\r\n,:]}", p.rest[end]) < 0 {
					end++
				}
				end--
			}
		}
		end++
		if depth == 0 {
			raw := p.rest[:end]
			p.rest = p.rest[end:]
			return raw
		}
	}
}
