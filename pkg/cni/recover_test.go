package cni

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// overrun panics, as by a mistake in a plugin.
func overrun() error { return entry(nil, 0) }

func entry(list []error, i int) error { return list[i] }

// TestPanicIsAnErrorAndUndone: wherever a plugin's function panics, the steps before are
// undone, and the runtime gets an error object that names the place.
func TestPanicIsAnErrorAndUndone(t *testing.T) {
	var undone []string
	step := func(name string) func() error {
		return func() error { undone = append(undone, name); return nil }
	}
	add := func(*Request) (result types.Result, err error) {
		var undo Undo
		defer undo.OnError(&err)
		undo.Push("take the first back", step("first"))
		undo.Push("take the second back", overrun)
		undo.Push("take the third back", step("third"))
		return nil, overrun()
	}
	var out bytes.Buffer
	env := soundEnv("ADD")
	status := Plugin{Name: "p", Add: add}.serve(func(k string) string { return env[k] }, strings.NewReader(soundConfig), &out)
	e := answer{status: status, out: out.String()}.error(t)
	if got := strings.Join(undone, " "); got != "third first" {
		t.Errorf("undone: got %q, want the third and the first, past an inverse that panics itself", got)
	}
	if e.Code != CodeFailed || e.CNIVersion != "1.1.0" || strings.Count(e.Msg, "pkg/cni/recover_test.go:") != 2 || !strings.Contains(e.Msg, "index out of range") {
		t.Errorf("got %+v, want code 100 and the place of both panics", e)
	}
}

func TestPanicOfEachCommand(t *testing.T) {
	fails := func(*Request) error { return overrun() }
	p := Plugin{
		Name: "p", Add: func(*Request) (types.Result, error) { return nil, overrun() },
		Del: fails, Check: fails, Validate: fails,
		States: []State{{GC: func(*Request, Valid) error { return overrun() }}},
	}
	for _, command := range []Command{Add, Del, Check, GC, Status} {
		var out bytes.Buffer
		env := soundEnv(string(command))
		status := p.serve(func(k string) string { return env[k] }, strings.NewReader(soundConfig), &out)
		if e := (answer{status: status, out: out.String()}).error(t); e.Code != CodeFailed || !strings.Contains(e.Msg, "recover_test.go:") {
			t.Errorf("%s: got %+v, want code 100 with the place", command, e)
		}
	}
}

func TestEachCaughtGoesOn(t *testing.T) {
	last := false
	refused := errors.New("refused")
	err := EachCaught(overrun, func() error { return refused }, func() error { last = true; return nil })
	if !last || !errors.Is(err, refused) || !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("got %v, last step done: %t; want both errors and the last step", err, last)
	}
	if err := EachCaught(func() error { return nil }); err != nil {
		t.Errorf("got %v for steps that all went well", err)
	}
}
