package cni

import (
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Unmarshal is json.Unmarshal with readable errors; see Plain.
func Unmarshal(data []byte, v any) error {
	err := UnmarshalOnce(data, v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		wrong.Field = written(wrong.Field, reflect.TypeOf(v))
	}
	return Plain(err)
}

// written is the path without the names of embedded structs, which nobody has written.
func written(path string, in reflect.Type) string {
	var steps []string
	for step := range strings.SplitSeq(path, ".") {
		for in != nil && slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map}, in.Kind()) {
			in = in.Elem()
		}
		field, ok := fieldOf(in, step)
		if !ok || !field.Anonymous || field.Tag.Get("json") != "" {
			steps = append(steps, step)
		}
		in = field.Type
	}
	return strings.Join(steps, ".")
}

// fieldOf is the struct's field that encoding/json calls so in a path.
func fieldOf(in reflect.Type, name string) (reflect.StructField, bool) {
	if in == nil || in.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	for i := range in.NumField() {
		field := in.Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if cmp.Or(key, field.Name) == name {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// typeError says that a value of a document has the wrong type.
type typeError struct {
	field string // the path of the value, with dots; empty for the whole document
	text  string
}

func (e *typeError) Error() string {
	if e.field == "" {
		return e.text
	}
	return e.field + ": " + e.text
}

// Plain rewords an error of encoding/json about Go's types for whoever wrote the document:
// field, value, way out. Errors that wrap it stay as they are.
func Plain(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	plain := &typeError{field: wrong.Field, text: typeText(wrong)}
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
