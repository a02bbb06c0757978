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

// Push registers the inverse of a step; what says what the inverse does ("delete veth3f…").
// A step whose answer may be lost is pushed before it is done, so that the inverse must
// accept that there is nothing to undo.
func (u *Undo) Push(what string, inverse func() error) {
	u.steps = append(u.steps, undoStep{what, inverse})
}

// OnError runs all inverses, last first, if *err is not nil, and joins their errors to it.
// It must be deferred itself, with the address of a named result, so that no shadowed
// variable can hide the error. It turns a panic into an error in *err, and undoes that, too.
func (u *Undo) OnError(err *error) {
	if cause := recover(); cause != nil { // works only because OnError itself is deferred
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
