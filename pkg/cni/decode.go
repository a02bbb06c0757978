package cni

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Unmarshal is json.Unmarshal, whose errors people can read; see Plain.
func Unmarshal(data []byte, v any) error { return Plain(json.Unmarshal(data, v)) }

// typeError is a value of the wrong type in a document.
type typeError struct {
	// Field is the path of the value, with dots; empty for the whole document.
	Field string
	text  string
}

func (e *typeError) Error() string {
	if e.Field == "" {
		return e.text
	}
	return e.Field + ": " + e.text
}

// Plain is the error with what encoding/json says of Go's types put into the words of
// whoever wrote the document: field, value, way out. What wraps it stays around it.
func Plain(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	plain := &typeError{Field: wrong.Field, text: typeText(wrong)}
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
		return fmt.Sprintf("the number %s is no whole number, or too large or too small; write another", value)
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

// haveOf is JSON's word for a value, with its article.
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

// wantOf is what a Go type is written as.
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
