package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// reservations is the directory of port reservations: who has a host port, on which address,
// whatever the backend. A reservation is a symbolic link to the holder's record:
//
//	/run/trestle/hostports/tcp-8080/127.0.0.1 -> ../../translations/<network>/<owner>
//
// A dangling one is stale. To look up a port only the port's directory is read. Whoever
// changes reservations holds the store's lock.
type reservations struct {
	h   *Host
	dir string
}

func (h *Host) reservations() reservations { return reservations{h, h.store.Dir("hostports")} }

func (r reservations) port(m Mapping) string {
	return r.dir + "/" + string(m.Protocol) + "-" + strconv.Itoa(int(m.Host.Port()))
}

func (r reservations) file(m Mapping) string {
	return r.port(m) + "/" + m.Host.Addr().String()
}

// free returns the mappings that the owner has or may have. A port that the same
// container has by another network is left out; one that another container has is an
// error with code 102.
func (r reservations) free(p ownedPorts) ([]Mapping, error) {
	var free []Mapping
	for _, m := range p.Mappings {
		holder, taken, err := r.holder(m, p.Owner)
		if err != nil {
			return nil, err
		}
		if taken && holder.Owner.ContainerID != p.Owner.ContainerID {
			err := cni.ConflictErrorf("host port %s/%d on %s is taken by container %s of network %s, which has it for %s; stop that container or choose another host port",
				m.Protocol, m.Host.Port(), hostName(m.Host.Addr()), holder.Owner.ContainerID, holder.Owner.Network, holder.Value.target(m))
			return nil, portTakenError{err, holder.Stamp}
		}
		if !taken {
			free = append(free, m)
		}
	}
	return free, nil
}

// portTakenError says that another container has a port; it may be about to go.
type portTakenError struct {
	error
	holder record.Stamp
}

func (e portTakenError) Unwrap() error { return e.error }

// holder finds who else has a port and address that m overlaps. A container that is
// proved dead holds nothing.
func (r reservations) holder(m Mapping, owner cni.Owner) (holder attachmentRecord, taken bool, err error) {
	addresses, err := names(r.port(m))
	if err != nil {
		return holder, false, cni.IOErrorf("look who has a host port: %w", err)
	}
	for _, address := range addresses {
		if !overlap(address, m.Host.Addr()) {
			continue
		}
		holder, there, err := record.At[translation](filepath.Join(r.port(m), address))
		if err != nil {
			return holder, false, err
		}
		if !there || holder.Owner == owner || holder.Value.Ports == nil {
			continue
		}
		dead, err := r.h.isDead(holder)
		if err != nil || !dead {
			return holder, err == nil, err
		}
	}
	return attachmentRecord{}, false, nil
}

// overlap says whether a reservation on one address conflicts with another address.
func overlap(reserved string, host netip.Addr) bool {
	address, err := netip.ParseAddr(reserved)
	if err != nil || address.Is4() != host.Is4() {
		return false
	}
	return address == host || address.IsUnspecified() || host.IsUnspecified()
}

// target returns where the holder maps the port that m overlaps.
func (t translation) target(m Mapping) string {
	for _, had := range t.Ports.Mappings {
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

// take reserves ports for the owner. It replaces another owner's reservation: callers have
// asked before (free, holder) whether that is stale. At an upgrade there is none yet.
func (r reservations) take(p ownedPorts) error {
	for _, m := range p.Mappings {
		err := os.Mkdir(r.port(m), 0o700)
		if errors.Is(err, fs.ErrNotExist) {
			err = os.MkdirAll(r.port(m), 0o700)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return cni.IOErrorf("reserve a host port: %w", err)
		}
		target, err := filepath.Rel(r.port(m), r.h.store.Path(place, p.Owner))
		if err != nil {
			return cni.IOErrorf("reserve a host port: %w", err)
		}
		err = os.Symlink(target, r.file(m))
		if errors.Is(err, fs.ErrExist) {
			ours, ourErr := r.ours(p.Owner, m)
			if err = ourErr; !ours && err == nil { // stale
				err = errors.Join(os.Remove(r.file(m)), os.Symlink(target, r.file(m)))
			}
		}
		if err != nil {
			return cni.IOErrorf("reserve a host port: %w", err)
		}
	}
	return nil
}

// held returns the mappings that are reserved for the owner.
func (r reservations) held(p ownedPorts) ([]Mapping, error) {
	var held []Mapping
	for _, m := range p.Mappings {
		ours, err := r.ours(p.Owner, m)
		if err != nil {
			return nil, err
		}
		if ours {
			held = append(held, m)
		}
	}
	return held, nil
}

func (r reservations) ours(owner cni.Owner, m Mapping) (bool, error) {
	target, err := os.Readlink(r.file(m))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look who has a host port: %w", err)
	}
	return filepath.Join(r.port(m), target) == r.h.store.Path(place, owner), nil
}

// giveUp removes the owner's reservations of the mappings.
func (r reservations) giveUp(p ownedPorts) error {
	held, err := r.held(p)
	return errors.Join(err, r.drop(held))
}

func (r reservations) drop(mappings []Mapping) error {
	var errs []error
	for _, m := range mappings {
		errs = append(errs, drop(r.file(m)))
	}
	return errors.Join(errs...)
}

// drop removes a reservation, and the port's directory if it is the last.
func drop(file string) error {
	err := unix.Unlink(file)
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = unix.Rmdir(filepath.Dir(file))
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
		return cni.IOErrorf("give up a host port: %w", &fs.PathError{Op: "remove", Path: file, Err: err})
	}
	return nil
}

// all returns each reservation with the path of the record that it links to, "" if it is
// not a symbolic link.
func (r reservations) all() (map[string]string, error) {
	ports, err := names(r.dir)
	all := make(map[string]string, len(ports))
	for _, port := range ports {
		dir := r.dir + "/" + port
		links, listErr := rawfile.Links(dir)
		err = errors.Join(err, ignoreMissing(listErr))
		for _, link := range links {
			all[dir+"/"+link.Name] = ""
			if link.Target != "" {
				all[dir+"/"+link.Name] = filepath.Join(dir, link.Target)
			}
		}
	}
	if err != nil {
		return nil, cni.IOErrorf("list host ports: %w", err)
	}
	return all, nil
}

// names lists a directory; a missing one is empty.
func names(dir string) ([]string, error) {
	all, err := rawfile.Names(dir)
	return all, ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

func isDangling(file string) (bool, error) {
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// difference describes a missing reservation. One that the same container has by another
// network counts as the owner's.
func (r reservations) difference(owner cni.Owner, m Mapping) ([]string, error) {
	ours, err := r.ours(owner, m)
	if err != nil || ours {
		return nil, err
	}
	holder, taken, err := r.holder(m, owner)
	if err != nil || taken && holder.Owner.ContainerID == owner.ContainerID {
		return nil, err
	}
	have := "nobody's"
	if taken {
		have = holder.Owner.String() + "'s"
	}
	return []string{fmt.Sprintf("mapping %s: want it %s's, have it %s", m, owner, have)}, nil
}
