package cni

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Unmarshal is json.Unmarshal with readable errors; see Plain.
func Unmarshal(data []byte, v any) error { return Plain(json.Unmarshal(data, v)) }

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
