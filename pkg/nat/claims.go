package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// claims is the directory that tells who holds a host port, whatever the
// backend. A claim is a symbolic link to the holder's record,
//
//	<dir>/claims/tcp-8080/127.0.0.1 -> …/ports/<owner>
//
// so that making it is exclusive, and one that leads nowhere is void. A lookup
// reads the claims of one port only.
type claims struct{ dir string }

func (h *Host) claims() claims { return claims{filepath.Join(h.dir, "claims")} }

func (c claims) port(m Mapping) string {
	return filepath.Join(c.dir, fmt.Sprintf("%s-%d", m.Protocol, m.Host.Port()))
}

func (c claims) file(m Mapping) string {
	return filepath.Join(c.port(m), m.Host.Addr().String())
}

// free are the mappings of f that its owner has or may have. One whose port is
// with the same container by another network is left out; one whose port
// another container holds is an error.
func (c claims) free(f Forward) ([]Mapping, error) {
	var free []Mapping
	for _, m := range f.Mappings {
		holder, taken, err := c.holder(m, f.Owner)
		if err != nil {
			return nil, err
		}
		if taken && holder.Owner.ContainerID != f.Owner.ContainerID {
			return nil, cni.ConflictErrorf("host port %s/%d on %s is taken by container %s of network %s, which has it for %s; stop that container or choose another host port",
				m.Protocol, m.Host.Port(), hostName(m.Host.Addr()), holder.Owner.ContainerID, holder.Owner.Network, holder.target(m))
		}
		if !taken {
			free = append(free, m)
		}
	}
	return free, nil
}

// holder is who, beside owner, holds a port and address that m overlaps.
func (c claims) holder(m Mapping, owner cni.Owner) (holder Forward, taken bool, err error) {
	files, err := filesIn(c.port(m))
	if err != nil {
		return Forward{}, false, err
	}
	for _, file := range files {
		if !overlap(filepath.Base(file), m.Host.Addr()) {
			continue
		}
		whole, err := read(file, &holder)
		if err != nil {
			return Forward{}, false, err
		}
		if whole && holder.Owner != owner {
			return holder, true, nil
		}
	}
	return Forward{}, false, nil
}

// overlap says whether a claim on one address stands against another one.
func overlap(claim string, host netip.Addr) bool {
	claimed, err := netip.ParseAddr(claim)
	if err != nil || claimed.Is4() != host.Is4() {
		return false
	}
	return claimed == host || claimed.IsUnspecified() || host.IsUnspecified()
}

// target is where the holder of a port that m overlaps leads it.
func (f Forward) target(m Mapping) string {
	for _, had := range f.Mappings {
		if had.Protocol == m.Protocol && had.Host.Port() == m.Host.Port() && overlap(had.Host.Addr().String(), m.Host.Addr()) {
			return had.Container.String()
		}
	}
	return "itself"
}

func hostName(host netip.Addr) string {
	if host.IsUnspecified() {
		return "any address (" + host.String() + ")"
	}
	return host.String()
}

// take claims the ports of f, of which free has said that it may have them.
func (c claims) take(r records, f Forward) error {
	for _, m := range f.Mappings {
		if err := os.MkdirAll(c.port(m), 0o755); err != nil {
			return cni.IOErrorf("claim host port: %w", err)
		}
		record, err := filepath.Rel(c.port(m), r.forwardFile(f.Owner))
		if err != nil {
			return cni.IOErrorf("claim host port: %w", err)
		}
		err = os.Symlink(record, c.file(m))
		if errors.Is(err, fs.ErrExist) { // ours already, or void
			err = errors.Join(drop(c.file(m)), os.Symlink(record, c.file(m)))
		}
		if err != nil {
			return cni.IOErrorf("claim host port: %w", err)
		}
	}
	return nil
}

// held are the mappings of f whose claim is its owner's.
func (c claims) held(r records, f Forward) ([]Mapping, error) {
	var held []Mapping
	for _, m := range f.Mappings {
		ours, err := c.ours(r, f.Owner, m)
		if err != nil {
			return nil, err
		}
		if ours {
			held = append(held, m)
		}
	}
	return held, nil
}

func (c claims) ours(r records, owner cni.Owner, m Mapping) (bool, error) {
	record, err := os.Readlink(c.file(m))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look who claims a host port: %w", err)
	}
	return filepath.Join(c.port(m), record) == r.forwardFile(owner), nil
}

// giveUp drops the claims of f that are its owner's.
func (c claims) giveUp(r records, f Forward) error {
	held, err := c.held(r, f)
	errs := []error{err}
	for _, m := range held {
		errs = append(errs, drop(c.file(m)))
	}
	for _, m := range f.Mappings {
		errs = append(errs, drop(c.port(m)))
	}
	return errors.Join(append(errs, drop(c.dir))...)
}

// difference says whether the owner's claim is not there. A port that the
// container holds by another network is as it should be.
func (c claims) difference(r records, owner cni.Owner, m Mapping) ([]string, error) {
	ours, err := c.ours(r, owner, m)
	if err != nil || ours {
		return nil, err
	}
	holder, taken, err := c.holder(m, owner)
	if err != nil || taken && holder.Owner.ContainerID == owner.ContainerID {
		return nil, err
	}
	have := "nobody's"
	if taken {
		have = holder.Owner.String() + "'s"
	}
	return []string{fmt.Sprintf("mapping %s: want it %s's, have it %s", m, owner, have)}, nil
}
