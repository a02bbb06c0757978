package cni

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// MarshalOnce is json.Marshal, for a process that encodes each type once; see UnmarshalOnce.
func MarshalOnce(v any) ([]byte, error) {
	if data, ok := encodeOnce(make([]byte, 0, 1<<10), reflect.ValueOf(v)); ok {
		return data, nil
	}
	return json.Marshal(v)
}

// encodeOnce appends a value as json.Marshal would, or returns false.
func encodeOnce(data []byte, v reflect.Value) (_ []byte, ok bool) {
	switch {
	case !v.IsValid():
		return data, false
	case v.Kind() == reflect.Pointer && v.IsNil():
		return append(data, "null"...), true
	case v.Kind() == reflect.Pointer:
		return encodeOnce(data, v.Elem())
	}
	switch from := methodsOf(v).(type) {
	case json.Marshaler:
		return appendMarshaled(data, from)
	case encoding.TextMarshaler:
		text, err := from.MarshalText()
		if err != nil {
			return data, false
		}
		return appendText(data, string(text))
	}
	switch v.Kind() {
	case reflect.String:
		data, ok = appendText(data, v.String())
		return data, ok && v.Type() != reflect.TypeFor[json.Number]()
	case reflect.Bool:
		return strconv.AppendBool(data, v.Bool()), true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(data, v.Int(), 10), true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(data, v.Uint(), 10), true
	case reflect.Slice:
		return encodeList(data, v)
	case reflect.Struct:
		return encodeStruct(data, v)
	}
	return data, false
}

func encodeList(data []byte, v reflect.Value) (_ []byte, ok bool) {
	if v.IsNil() {
		return append(data, "null"...), true
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return data, false
	}
	data = append(data, '[')
	for i := range v.Len() {
		if i > 0 {
			data = append(data, ',')
		}
		if data, ok = encodeOnce(data, v.Index(i)); !ok {
			return data, false
		}
	}
	return append(data, ']'), true
}

func encodeStruct(data []byte, v reflect.Value) (_ []byte, ok bool) {
	fields, ok := appendFields(nil, v)
	if !ok {
		return data, false
	}
	data = append(data, '{')
	first := true
	for _, f := range fields {
		if f.isLeftOut() {
			continue
		}
		if !first {
			data = append(data, ',')
		}
		first = false
		if data, ok = appendText(data, f.name); !ok {
			return data, false
		}
		if data, ok = encodeOnce(append(data, ':'), f.value); !ok {
			return data, false
		}
	}
	return append(data, '}'), true
}

// isLeftOut says whether the field's option leaves out its value.
func (f structField) isLeftOut() bool {
	return f.option == "omitempty" && isEmpty(f.value) || f.option == "omitzero" && isZero(f.value)
}

// methodsOf is the value with the methods that encoding/json calls: those of a pointer only
// if the value has an address.
func methodsOf(v reflect.Value) any {
	switch {
	case v.Type().PkgPath() == "": // no named type, which would be asked in vain at some cost
		return nil
	case v.CanAddr():
		return v.Addr().Interface()
	}
	return v.Interface()
}

// appendMarshaled appends a value that encodes itself, if that is plain text, like a time.
func appendMarshaled(data []byte, from json.Marshaler) (_ []byte, ok bool) {
	raw, err := from.MarshalJSON()
	if err != nil || !json.Valid(raw) {
		return data, false
	}
	text, ok := plainText(raw)
	if !ok {
		return data, false
	}
	return appendText(data, text)
}

// isZero is what "omitzero" asks: the method IsZero, if there is one for the value or its address.
func isZero(v reflect.Value) bool {
	if !v.CanAddr() {
		addressed := reflect.New(v.Type()).Elem()
		addressed.Set(v)
		v = addressed
	}
	if z, ok := v.Addr().Interface().(interface{ IsZero() bool }); ok {
		return z.IsZero()
	}
	return v.IsZero()
}

// isEmpty is what "omitempty" asks.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// appendText appends a string in which nothing needs to be escaped.
func appendText(data []byte, text string) (_ []byte, ok bool) {
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ', c == '"', c == '\\', c == '<', c == '>', c == '&', c >= utf8.RuneSelf:
			return data, false
		}
	}
	return append(append(append(data, '"'), text...), '"'), true
}
