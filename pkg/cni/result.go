package cni

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Result is the answer to ADD in the newest version of the spec.
type Result = types100.Result

// PrevResult is the result of the plugins before us in the chain (ADD) or of
// the whole ADD (DEL, CHECK); nil where there is none. The error has code 6.
func (r *Request) PrevResult() (*Result, error) {
	raw, err := r.rawPrevResult()
	if err != nil || raw == nil {
		return nil, err
	}
	result, err := create.Create(r.Version, raw)
	if err != nil {
		return nil, DecodeErrorf("prevResult: %w", err)
	}
	newest, err := types100.GetResult(result)
	if err != nil {
		return nil, DecodeErrorf("prevResult: %w", err)
	}
	return newest, nil
}

func (r *Request) rawPrevResult() (json.RawMessage, error) {
	var config struct {
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := r.Decode(&config); err != nil {
		return nil, err
	}
	if string(config.PrevResult) == "null" {
		return nil, nil
	}
	return config.PrevResult, nil
}

// PassThrough is the answer of a chained plugin that changes nothing: prevResult
// to the letter, fields that we do not know included. The error has code 7 where
// there is no prevResult.
func (r *Request) PassThrough() (types.Result, error) {
	raw, err := r.rawPrevResult()
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, ConfigErrorf("prevResult: missing; this plugin comes after another one in the list of plugins")
	}
	return rawResult(raw), nil
}

// rawResult is a result that is already in the caller's version.
type rawResult json.RawMessage

func (raw rawResult) Version() string { return "" }

func (raw rawResult) GetAsVersion(version string) (types.Result, error) {
	return create.Create(version, raw)
}

func (raw rawResult) Print() error { return fmt.Errorf("print: use PrintTo") }

func (raw rawResult) PrintTo(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s\n", raw)
	return err
}

// writeResult answers in the caller's version.
func writeResult(w io.Writer, version string, result types.Result) error {
	if raw, ok := result.(rawResult); ok {
		return raw.PrintTo(w)
	}
	newest, err := types100.GetResult(result)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if version != types100.ImplementedSpecVersion {
		newest = without110(newest)
	}
	converted, err := newest.GetAsVersion(version)
	if err != nil {
		return fmt.Errorf("result as version %s: %w", version, err)
	}
	return converted.PrintTo(w)
}

// without110 leaves out the fields that came with 1.1.0; the library would send
// them to callers of any version.
func without110(result *Result) *Result {
	older := *result
	older.Interfaces = nil
	for _, i := range result.Interfaces {
		older.Interfaces = append(older.Interfaces, &types100.Interface{Name: i.Name, Mac: i.Mac, Sandbox: i.Sandbox})
	}
	older.Routes = nil
	for _, r := range result.Routes {
		older.Routes = append(older.Routes, &types.Route{Dst: r.Dst, GW: r.GW})
	}
	return &older
}
