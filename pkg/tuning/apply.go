package tuning

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Apply makes the settings, after it recorded what was there before. On the undo
// stack is one inverse for all of them.
func (s Store) Apply(o cni.Owner, settings Settings, sandbox Sandbox, undo *cni.Undo) error {
	if len(settings) == 0 {
		return nil
	}
	return sandbox.tune(o.IfName, func(t tuner) error {
		before, err := t.read(settings)
		if err != nil {
			return err
		}
		if err := s.write(o, record{Sandbox: sandbox, Before: before, Made: settings}); err != nil {
			return err
		}
		undo.Push("restore the settings of "+o.IfName, func() error { return s.Restore(o, sandbox.Path) })
		for _, setting := range settings {
			if have, known := before.value(setting.Name); known && have == setting.Value {
				continue
			}
			if err := t.set(setting); err != nil {
				return err
			}
		}
		return nil
	})
}

// read is what the kernel has in place of the settings, those left out that
// cannot be read.
func (t tuner) read(settings Settings) (Settings, error) {
	var have Settings
	for _, setting := range settings {
		value, err := t.get(setting.Name)
		switch path, isSysctl := strings.CutPrefix(setting.Name, sysctl); {
		case isSysctl && errors.Is(err, fs.ErrNotExist):
			return nil, cni.ConfigErrorf("sysctl: the container has no %s; correct the name, or load the module that brings it", path)
		case err != nil && !isUnreadable(err):
			return nil, err
		case err == nil:
			have = append(have, Setting{setting.Name, value})
		}
	}
	return have, nil
}

// Restore takes back what Apply made for the owner, or what the reference plugin
// did; the namespace at netns is needed only for the latter. Whatever is gone, or
// has been changed by another since, is let be. The record goes even where
// something could not be restored: that is reported once, and does not hold up
// every later DEL.
func (s Store) Restore(o cni.Owner, netns string) error {
	path, r, err := s.find(o)
	if err != nil || path == "" {
		return err
	}
	if sandbox, ok := r.findSandbox(netns); ok {
		err = sandbox.tune(o.IfName, r.takeBack)
		if isGone(err) {
			err = nil
		}
	}
	return errors.Join(err, drop(path, s.link(o)))
}

// findSandbox is the namespace that the record is about, if it is still there:
// at the path of the DEL, or at that of the ADD.
func (r record) findSandbox(netns string) (Sandbox, bool) {
	for _, path := range []string{netns, r.Sandbox.Path} {
		if path == "" {
			continue
		}
		found, err := FindSandbox(path)
		if err == nil && (r.byReference() || r.Sandbox.same(found)) {
			return found, true
		}
	}
	return Sandbox{}, false
}

// takeBack goes on after a failure.
func (r record) takeBack(t tuner) error {
	var errs []error
	for i := len(r.Before) - 1; i >= 0; i-- {
		before := r.Before[i]
		have, err := t.get(before.Name)
		if isGone(err) {
			continue
		}
		made, known := r.Made.value(before.Name)
		if err == nil && have != before.Value && (!known || have == made) {
			err = t.set(before)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Diff says what is not as Apply leaves it.
func Diff(settings Settings, ifName string, sandbox Sandbox) ([]string, error) {
	var diffs []string
	if len(settings) == 0 {
		return nil, nil
	}
	err := sandbox.tune(ifName, func(t tuner) error {
		have, err := t.read(settings)
		for _, want := range settings {
			if value, known := have.value(want.Name); known && value != want.Value {
				diffs = append(diffs, fmt.Sprintf("%s of %s: want %s, have %s", want.Name, ifName, want.Value, value))
			}
		}
		return err
	})
	return diffs, err
}

// GC restores, or forgets, what was tuned for attachments of the network that
// are not valid. Without a list only what has lost its namespace is provably
// dead.
func (s Store) GC(network string, valid cni.Valid) error {
	records, err := s.list()
	errs := []error{err}
	for _, r := range records {
		if r.Owner.Network != network || valid.Keeps(r.Owner) {
			continue
		}
		if _, alive := r.findSandbox(""); valid.Known || !alive {
			errs = append(errs, s.Restore(r.Owner, ""))
		}
	}
	return errors.Join(errs...)
}
