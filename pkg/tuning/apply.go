package tuning

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Add makes the settings in the namespace at netns, after it recorded what was
// there before, and names the host veth if it took part. One inverse of all settings is pushed
// to undo, which the caller runs if the ADD fails: it takes back what this call changed,
// since an earlier plugin of the list may have tuned, too.
func (s Store) Add(o cni.Owner, settings Settings, netns string, undo *cni.Undo) (hostVeth string, err error) {
	if len(settings) == 0 {
		return "", nil
	}
	stamp, err := record.NewStamp(netns)
	if err != nil {
		return "", cni.IOErrorf("record what is tuned: %w", err)
	}
	err = tune(netns, o.IfName, func(t tuner) error {
		before, settings, err := t.read(settings)
		if err != nil {
			return err
		}
		now := saved{Owner: o, Stamp: stamp, Before: before, Made: settings}
		earlier, err := s.merge(now)
		if err != nil {
			return err
		}
		undo.Push("restore the settings of "+o.IfName, func() error { return s.goBack(now, earlier) })
		for _, one := range settings {
			if have, known := before.value(one.Name); known && have == one.Value {
				continue
			}
			if err := t.set(one); err != nil {
				return err
			}
		}
		if _, takesPart := before.value(hostMTU); takesPart {
			outside, err := t.hostVeth()
			if err != nil {
				return err
			}
			hostVeth = outside.Attrs().Name
		}
		return nil
	})
	return hostVeth, err
}

// read is what the kernel has in place of the settings, those left out that
// cannot be read; and the settings that there are: none of a host veth where there
// is no such thing.
func (t tuner) read(settings Settings) (have, existing Settings, err error) {
	for _, s := range settings {
		value, err := t.get(s.Name)
		switch path, isSysctl := strings.CutPrefix(s.Name, sysctl); {
		case errors.Is(err, errNoHostVeth):
			continue
		case isSysctl && errors.Is(err, fs.ErrNotExist):
			if _, linkErr := t.link(); linkErr != nil && slices.Contains(strings.Split(path, "/"), t.ifName) {
				return nil, nil, linkErr // its settings are gone with it
			}
			return nil, nil, cni.ConfigErrorf("sysctl: the container has no %s; correct the name, or load the module that brings it", path)
		case err != nil && !isUnreadable(err):
			return nil, nil, err
		case err == nil:
			have = append(have, setting{s.Name, value})
		}
		existing = append(existing, s)
	}
	return have, existing, nil
}

// goBack takes back what one Add changed, and leaves the record as it found it.
func (s Store) goBack(now saved, earlier *saved) error {
	err := tune(now.Stamp.NetNS.Path, now.Owner.IfName, now.takeBack)
	if isGone(err) {
		err = nil
	}
	if earlier != nil {
		if path := s.path(now.Owner); earlier.file != path {
			err = errors.Join(err, drop(path))
		}
		return errors.Join(err, s.save(*earlier))
	}
	return errors.Join(err, s.forget(now.Owner, s.path(now.Owner)))
}

// Release takes back what Add made for the owner, or what the reference plugin
// did; the namespace at netns is needed only for the latter. Whatever is gone, or
// has been changed by another since, stays as it is. The record goes even where
// something could not be restored: that is reported once, and does not hold up
// every later DEL.
func (s Store) Release(o cni.Owner, netns string) error {
	r, known, err := s.find(o)
	if err != nil {
		return err
	}
	files := []string{s.path(o) + unfinishedSuffix, filepath.Join(DefaultDataDir, fileName(o)) + unfinishedSuffix, s.link(o)}
	if known {
		files = append(files, r.file)
	}
	if there, ok := r.findNetNS(netns); known && ok {
		err = tune(there, o.IfName, r.takeBack)
		if isGone(err) {
			err = nil
		}
	}
	return errors.Join(err, s.forget(o, files...))
}

// forget removes the record, after the files.
func (s Store) forget(o cni.Owner, files ...string) error {
	if err := drop(files...); err != nil {
		return err
	}
	return s.records.Remove(place, o, nil)
}

// findNetNS is a path to the namespace that the record is about, if it is still
// there: that of the DEL, or that of the ADD.
func (r saved) findNetNS(netns string) (string, bool) {
	for _, path := range []string{netns, r.netns().Path} {
		if path != "" && (r.fromReference() || r.isAbout(record.Identify(path))) {
			return path, true
		}
	}
	return "", false
}

// takeBack goes on after a failure.
func (r saved) takeBack(t tuner) error {
	var errs []error
	for i := len(r.Before) - 1; i >= 0; i-- {
		before := r.Before[i]
		have, err := t.get(before.Name)
		_, known := r.Made.value(before.Name)
		ours := !known || slices.Contains(r.Made, setting{before.Name, have})
		if err == nil && have != before.Value && ours {
			err = t.set(before)
		}
		if !isGone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Diff says what is not as Add leaves it. The host veth is left out: the
// reference plugin, whose containers we may be asked about, does not tune it.
func Diff(settings Settings, ifName, netns string) ([]string, error) {
	var diffs []string
	if len(settings) == 0 {
		return nil, nil
	}
	err := tune(netns, ifName, func(t tuner) error {
		have, _, err := t.read(settings)
		for _, want := range settings {
			if value, known := have.value(want.Name); known && value != want.Value && want.Name != hostMTU {
				diffs = append(diffs, fmt.Sprintf("%s of %s: want %s, have %s", want.Name, ifName, want.Value, value))
			}
		}
		return err
	})
	return diffs, err
}

// GC restores, or forgets, what was tuned for attachments of the network that
// are not valid. Without a list only what is proved dead goes.
func (s Store) GC(network string, valid cni.Valid) error {
	records, err := s.list()
	errs := []error{err}
	var prober record.Prober
	for _, r := range records {
		if r.Owner.Network != network || valid.Keeps(r.Owner) {
			continue
		}
		dead := valid.Known
		if !dead {
			dead, err = r.dead(&prober)
			errs = append(errs, err)
		}
		if dead {
			errs = append(errs, s.Release(r.Owner, ""))
		}
	}
	return errors.Join(errs...)
}
