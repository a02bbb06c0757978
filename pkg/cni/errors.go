package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Code is the number of an error in the answer to a runtime (CNI spec,
// "Error"). Codes from 100 are Trestle's own.
type Code uint

// The codes that Trestle answers with. The constructors below choose them; nothing else
// does.
const (
	CodeVersion     Code = 1   // we do not know the cniVersion, or it does not have the command
	CodeUnsupported Code = 2   // a field of the configuration asks for what this host does not support
	CodeEnvironment Code = 4   // a CNI_* variable is missing or wrong
	CodeIO          Code = 5   // a file or a stream could not be read or written
	CodeDecode      Code = 6   // the configuration is not JSON of the expected shape
	CodeConfig      Code = 7   // the configuration is wrong
	CodeTryAgain    Code = 11  // something temporary is in the way: a lock, a missing plugin
	CodeUnavailable Code = 50  // STATUS: an ADD cannot be served
	CodeFailed      Code = 100 // the kernel refused an operation
	CodeExhausted   Code = 101 // no address is free
	CodeConflict    Code = 102 // somebody else has the address, name or port
	CodeMismatch    Code = 103 // CHECK: the state is not as ADD left it
)

// Error is an error with the code for the runtime.
type Error struct {
	Code Code
	err  error
}

func (e *Error) Error() string { return e.err.Error() }

// Unwrap is the error without its code.
func (e *Error) Unwrap() error { return e.err }

func coded(code Code, format string, args []any) error {
	return &Error{Code: code, err: fmt.Errorf(format, args...)}
}

// The constructors below take a format as fmt.Errorf does, including %w. The message of a
// user's mistake names field, value and way out.

// versionErrorf is an error with code 1.
func versionErrorf(format string, args ...any) error { return coded(CodeVersion, format, args) }

// UnsupportedErrorf is an error with code 2; the message must name key and value.
func UnsupportedErrorf(format string, args ...any) error { return coded(CodeUnsupported, format, args) }

// EnvironmentErrorf is an error with code 4; the message must name the variable.
func EnvironmentErrorf(format string, args ...any) error { return coded(CodeEnvironment, format, args) }

// IOErrorf is an error with code 5.
func IOErrorf(format string, args ...any) error { return coded(CodeIO, format, args) }

// DecodeErrorf is an error with code 6.
func DecodeErrorf(format string, args ...any) error { return coded(CodeDecode, format, args) }

// ConfigErrorf is an error with code 7.
func ConfigErrorf(format string, args ...any) error { return coded(CodeConfig, format, args) }

// ConfigError puts the field's name before err, with code 7; nil for nil.
func ConfigError(field string, err error) error {
	if err == nil {
		return nil
	}
	return ConfigErrorf("%s: %w", field, err)
}

// TryAgainErrorf is an error with code 11.
func TryAgainErrorf(format string, args ...any) error { return coded(CodeTryAgain, format, args) }

// UnavailableErrorf is an error with code 50.
func UnavailableErrorf(format string, args ...any) error { return coded(CodeUnavailable, format, args) }

// ExhaustedErrorf is an error with code 101.
func ExhaustedErrorf(format string, args ...any) error { return coded(CodeExhausted, format, args) }

// ConflictErrorf is an error with code 102; the message names the holder.
func ConflictErrorf(format string, args ...any) error { return coded(CodeConflict, format, args) }

// MismatchErrorf is an error with code 103.
func MismatchErrorf(format string, args ...any) error { return coded(CodeMismatch, format, args) }

// Mismatches is a MismatchErrorf for each difference; nil for none.
func Mismatches[T any](differences []T) error {
	var all error
	for _, d := range differences {
		all = errors.Join(all, MismatchErrorf("%v", d))
	}
	return all
}

// CodeOf is the code of the first coded error in err's tree; CodeFailed if there is none.
func CodeOf(err error) Code {
	var coded *Error
	if errors.As(err, &coded) {
		return coded.Code
	}
	return CodeFailed
}

// writeError writes the spec's error object.
func writeError(w io.Writer, version string, code Code, message string) error {
	answer := struct {
		CNIVersion string `json:"cniVersion"`
		Code       Code   `json:"code"`
		Msg        string `json:"msg"`
	}{version, code, message}
	return writeIndented(w, answer)
}

// writeIndented writes JSON as the reference library does.
func writeIndented(w io.Writer, answer any) error {
	data, err := MarshalOnce(answer)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, data, "", "    "); err != nil {
		return err
	}
	indented.WriteByte('\n')
	_, err = w.Write(indented.Bytes())
	return err
}

// DelegateErrorf is the error of a plugin that we executed, with its own code.
func DelegateErrorf(code Code, format string, args ...any) error { return coded(code, format, args) }
