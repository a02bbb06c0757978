package cni

import (
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
)

// Unmarshal is json.Unmarshal, but its errors name the full path of the value that is wrong,
// "ipam.routes[1].gw", and the way out; see Plain.
func Unmarshal(data []byte, v any) error {
	err := UnmarshalOnce(data, v)
	if err == nil || !json.Valid(data) {
		return err
	}
	return locate(data, reflect.TypeOf(v), err)
}

// locate finds the value that makes data no value of type t, by decoding each part alone. err
// is the error of the whole. A type that decodes itself is one part, but if its error has a
// path, that counts.
func locate(data []byte, t reflect.Type, err error) *valueError {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	document := parser{data}
	data = document.next()
	_, decodesItself := reflect.New(t).Interface().(json.Unmarshaler)
	var wrong *valueError
	switch kind := t.Kind(); {
	case decodesItself:
	case kind == reflect.Struct && data[0] == '{':
		fields, _ := appendFields(nil, reflect.New(t).Elem()) // of a type that is not plain, what could be read
		wrong = locateInObject(data, func(key string) (string, reflect.Type) {
			if f := fieldCalled(fields, key); f != nil {
				return f.name, f.value.Type()
			}
			return key, nil
		})
	case kind == reflect.Map && data[0] == '{':
		wrong = locateInObject(data, func(key string) (string, reflect.Type) { return key, t.Elem() })
	case kind == reflect.Slice && data[0] == '[':
		p := parser{data[1:]}
		for i := 0; p.more() && wrong == nil; i++ {
			wrong = decodeAlone(p.next(), t.Elem(), fmt.Sprintf("[%d]", i))
		}
	}
	if wrong != nil {
		return wrong
	}
	return asValueError(Plain(err))
}

// locateInObject is locate for the values of an object. typeOf says how a key is called in
// paths, and the type of its value; nil if the value is not read.
func locateInObject(data []byte, typeOf func(key string) (string, reflect.Type)) *valueError {
	for p := (parser{data[1:]}); p.more(); {
		key, value := text(p.next()), p.next()
		name, t := typeOf(key)
		if t == nil {
			continue
		}
		if wrong := decodeAlone(value, t, name); wrong != nil {
			return wrong
		}
	}
	return nil
}

// decodeAlone is the located error of one part, which is called name; nil if nothing is wrong
// with it.
func decodeAlone(data []byte, t reflect.Type, name string) *valueError {
	if err := json.Unmarshal(data, reflect.New(t).Interface()); err != nil {
		return locate(data, t, err).within(name)
	}
	return nil
}

// text is the text of a JSON string.
func text(raw []byte) (s string) {
	_ = json.Unmarshal(raw, &s) // the document is valid JSON, and its keys are strings
	return s
}

// valueError says what is wrong with a value of a document.
type valueError struct {
	field string // the path of the value, with dots; empty for the whole document
	err   error
}

func (e *valueError) Error() string {
	if e.field == "" {
		return e.err.Error()
	}
	return e.field + ": " + e.err.Error()
}

func (e *valueError) Unwrap() error { return e.err }

func asValueError(err error) *valueError {
	var of *valueError
	if errors.As(err, &of) && of.Error() == err.Error() {
		return of
	}
	return &valueError{"", err}
}

// within is the error of a value below the field.
func (e *valueError) within(field string) *valueError {
	if e.field != "" && e.field[0] != '[' {
		field += "."
	}
	return &valueError{field + e.field, e.err}
}

// below is err, of decoding the value at the path.
func below(path string, err error) error { return asValueError(err).within(path) }

// Plain rewords an error of encoding/json about Go's types, or of package net about an address,
// for whoever wrote the document: field, value, way out. Errors that wrap it stay as they are.
func Plain(err error) error {
	var wrong *json.UnmarshalTypeError
	var address *net.ParseError
	switch {
	case errors.As(err, &wrong):
		return reworded(err, wrong, &valueError{wrong.Field, errors.New(typeText(wrong))})
	case errors.As(err, &address) && address.Type == "IP address":
		_, plain := ParseAddr(address.Text)
		return reworded(err, address, &valueError{"", cmp.Or(plain, err)})
	case errors.As(err, &address) && address.Type == "CIDR address":
		_, plain := ParsePrefix(address.Text)
		return reworded(err, address, &valueError{"", cmp.Or(plain, err)})
	}
	return err
}

// reworded is err with plain in the place of wrong, which it wraps.
func reworded(err, wrong, plain error) error {
	if before, after, ok := strings.Cut(err.Error(), wrong.Error()); ok && before+after != "" {
		return fmt.Errorf("%s%w%s", before, plain, after)
	}
	return plain
}

// typeText is "a string stands where a whole number belongs; …".
func typeText(wrong *json.UnmarshalTypeError) string {
	have, value, _ := strings.Cut(wrong.Value, " ")
	want := wantOf(wrong.Type)
	wayOut := ""
	switch {
	case value != "" && want == wholeNumber:
		return fmt.Sprintf("the number %s is not a whole number, or too large or too small; write another", value)
	case have == "string" && (want == wholeNumber || want == "a number" || want == "true or false"):
		wayOut = "; write it without quotes"
	case have != "array" && have != "object" && want == "text":
		wayOut = `; write it in quotes, "…"`
	case want == "a list":
		wayOut = "; write it in brackets, […]"
	case have == "array":
		wayOut = "; write it without brackets"
	case want == "an object":
		wayOut = "; write it in braces, {…}"
	}
	return fmt.Sprintf("%s stands where %s belongs%s", haveOf(have), want, wayOut)
}

// haveOf is the word for a JSON value, with its article.
func haveOf(kind string) string {
	switch kind {
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "bool":
		return "true or false"
	}
	return "a " + kind
}

const wholeNumber = "a whole number"

// wantOf says how a value of a Go type is written in JSON.
func wantOf(t reflect.Type) string {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return "text"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Pointer:
		return wantOf(t.Elem())
	}
	return wholeNumber
}
