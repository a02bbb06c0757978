package tuning

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Add records the present values, makes the settings in the namespace at netns, and returns
// the name of the host veth if its MTU was set, too. It pushes one inverse of all settings to
// undo, which the caller runs if the ADD fails. That restores only what this call changed,
// since an earlier plugin of the list may have tuned, too.
func (s Store) Add(o cni.Owner, settings Settings, netns string, undo *cni.Undo) (hostVeth string, err error) {
	if len(settings) == 0 {
		return "", nil
	}
	stamp, err := record.NewStamp(netns)
	if err != nil {
		return "", cni.IOErrorf("record the former settings: %w", err)
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
		undo.Push("restore the settings of "+o.IfName, func() error { return s.undo(now, earlier) })
		if err := t.setAll(settings, before); err != nil {
			return err
		}
		if reread := t.reread(settings); len(reread) > 0 {
			// the inverse of this Add, too, must know them
			now.Made = append(slices.Clone(now.Made), reread...)
			if err := s.alsoMade(o, reread); err != nil {
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

// read returns the kernel's values of the settings, except those that cannot be read. existing
// are the settings without that of the host veth, if there is none.
func (t tuner) read(settings Settings) (have, existing Settings, err error) {
	for _, s := range settings {
		value, err := t.get(s.Name)
		switch path, isSysctl := strings.CutPrefix(s.Name, sysctl); {
		case errors.Is(err, errNoHostVeth):
			continue
		case isSysctl && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EISDIR)):
			if _, linkErr := t.link(); linkErr != nil && slices.Contains(strings.Split(path, "/"), t.ifName) {
				return nil, nil, linkErr // the interface is gone, and its sysctls with it
			}
			return nil, nil, cni.ConfigErrorf("sysctl: the container has no %s; correct the name, or load the module that provides it", path)
		case err != nil && !isUnreadable(err):
			return nil, nil, err
		case err == nil && s.Name == macAddress && len(value) != len(s.Value):
			return nil, nil, cni.ConfigErrorf("mac: %s has %d octets, and that of %s, %s, has %d; give as many", s.Value, octets(s.Value), t.ifName, value, octets(value))
		case err == nil:
			have = append(have, setting{s.Name, value})
		}
		existing = append(existing, s)
	}
	return have, existing, nil
}

// setAll makes the settings that are not as they shall be before.
func (t tuner) setAll(settings, before Settings) error {
	for _, one := range settings {
		if have, known := before.value(one.Name); known && have == one.Value {
			continue
		}
		if err := t.set(one); err != nil {
			return explainRefusal(err, one)
		}
	}
	return nil
}

// reread are the sysctls that the kernel shows in another form than they were written in: of
// net.ipv4.ip_local_reserved_ports, "80,81" becomes "80-81".
func (t tuner) reread(settings Settings) (other Settings) {
	for _, s := range settings {
		if !strings.HasPrefix(s.Name, sysctl) {
			continue
		}
		if value, err := t.get(s.Name); err == nil && value != s.Value { // some cannot be read
			other = append(other, setting{s.Name, value})
		}
	}
	return other
}

// alsoMade adds settings to what the owner's record says was made.
func (s Store) alsoMade(o cni.Owner, more Settings) error {
	r, there, err := s.find(o)
	if err != nil || !there {
		return err
	}
	r.Made = append(r.Made, more...)
	return s.save(r)
}

// explainRefusal gives the error of a value that the kernel refuses the key, and code 7.
func explainRefusal(err error, s setting) error {
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ERANGE) {
		return err
	}
	key := s.Name
	if name, isSysctl := strings.CutPrefix(s.Name, sysctl); isSysctl {
		key = "sysctl: " + name
	}
	return cni.ConfigErrorf("%s: the kernel does not take %q; give a value that it takes: %w", key, s.Value, err)
}

func octets(mac string) int { return (len(mac) + 1) / len("0a:") }

// undo restores what one Add changed, and the record that it found.
func (s Store) undo(now saved, earlier *saved) error {
	err := tune(now.Stamp.NetNS.Path, now.Owner.IfName, now.restore)
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

// Release restores what Add, or the reference plugin, changed for the owner; the namespace at
// netns is needed only for the latter. Settings that somebody else has changed since stay as
// they are. Release removes the record even if something could not be restored, so that the
// error is reported once and not by every later DEL.
func (s Store) Release(o cni.Owner, netns string) error {
	r, known, err := s.find(o)
	if err != nil {
		return err
	}
	files := []string{s.path(o) + unfinishedSuffix, filepath.Join(defaultDataDir, fileName(o)) + unfinishedSuffix, s.link(o)}
	if known {
		files = append(files, r.file)
	}
	if there, ok := r.findNetNS(netns); known && ok {
		err = tune(there, o.IfName, r.restore)
		if isGone(err) {
			err = nil
		}
	}
	return errors.Join(err, s.forget(o, files...))
}

// forget removes the files, and then the record.
func (s Store) forget(o cni.Owner, files ...string) error {
	if err := drop(files...); err != nil {
		return err
	}
	return s.records.Remove(place, o, nil)
}

// findNetNS is a path to the record's namespace, if that still exists: the path of the DEL, or
// that of the ADD.
func (r saved) findNetNS(netns string) (string, bool) {
	for _, path := range []string{netns, r.netns().Path} {
		if path != "" && (r.fromReference() || r.isAbout(record.Identify(path))) {
			return path, true
		}
	}
	return "", false
}

// restore restores the settings, last first, and goes on after a failure. A setting whose value
// is not one that we made stays as it is.
func (r saved) restore(t tuner) error {
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

// Diff lists, for people, what is not as Add leaves it. It leaves out the host veth, which the
// reference plugin does not tune, since it may have tuned the container.
func (s Store) Diff(o cni.Owner, settings Settings, netns string) ([]string, error) {
	var diffs []string
	if len(settings) == 0 {
		return nil, nil
	}
	err := tune(netns, o.IfName, func(t tuner) error {
		have, _, err := t.read(settings)
		for _, want := range settings {
			value, known := have.value(want.Name)
			if !known || value == want.Value || want.Name == hostMTU || s.made(o, want, setting{want.Name, value}) {
				continue
			}
			diffs = append(diffs, fmt.Sprintf("%s of %s: want %s, have %s", want.Name, o.IfName, want.Value, value))
		}
		return err
	})
	return diffs, err
}

// made says whether the owner's record has both: what was written of one setting, and what the
// kernel shows, because it has another form for it or a later plugin of the list has changed it.
func (s Store) made(o cni.Owner, written, shown setting) bool {
	r, there, err := s.find(o)
	return err == nil && there && slices.Contains(r.Made, written) && slices.Contains(r.Made, shown)
}

// GC is Release for the attachments of the network that are not valid; without a list, for
// those that are proved dead.
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
