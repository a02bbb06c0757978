package cni

import (
	"errors"
	"fmt"
)

// Undo collects the inverse of each step of an ADD, as soon as the step is done.
// The zero value is ready.
//
//	func add() (err error) {
//		var undo cni.Undo
//		defer undo.OnError(&err)
type Undo struct {
	steps []undoStep
}

type undoStep struct {
	what    string
	inverse func() error
}

// Push registers the inverse of a step just done; what says what the inverse
// does ("delete veth3f…").
func (u *Undo) Push(what string, inverse func() error) {
	u.steps = append(u.steps, undoStep{what, inverse})
}

// OnError runs all inverses, last first, if *err is not nil, and joins their
// errors to it. It is meant for defer with the address of a named result, so
// that no shadowed variable can skip it. A panic on its way through becomes an
// error in *err, and is undone like any other.
func (u *Undo) OnError(err *error) {
	if cause := recover(); cause != nil { // OnError itself is what is deferred
		*err = errors.Join(*err, panicError(cause))
	}
	if *err == nil {
		return
	}
	for i := len(u.steps) - 1; i >= 0; i-- {
		if failed := Catch(u.steps[i].inverse); failed != nil {
			*err = errors.Join(*err, fmt.Errorf("undo: %s: %w", u.steps[i].what, failed))
		}
	}
	u.steps = nil
}
