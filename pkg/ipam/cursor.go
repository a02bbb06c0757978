package ipam

import (
	"errors"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// The cursor of a range set is the address that it gave away last; it stands in
// last_reserved_ip.<number of the set>, as host-local writes it.
const cursorPrefix = "last_reserved_ip."

const cursorMax = 64

func cursorName(set int) string { return cursorPrefix + strconv.Itoa(set) }

// readCursor returns the cursor of a set; it is invalid where there is none that
// can be read: then the round begins again, and nothing worse happens.
func readCursor(d dir, set int) netip.Addr {
	data, err := d.read(cursorName(set), make([]byte, cursorMax))
	if err != nil {
		return netip.Addr{}
	}
	return parseCursor(data)
}

func parseCursor(data []byte) netip.Addr {
	a, err := netip.ParseAddr(string(data))
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// writeCursor moves the cursor of a set. The file is written in place and then
// cut to length. A crash between the two leaves a wrong cursor, which costs no
// more than the order of one round.
func writeCursor(d dir, set int, a netip.Addr) error {
	name := cursorName(set)
	fd, err := d.open(name, unix.O_RDWR|unix.O_CREAT)
	if errors.Is(err, unix.ELOOP) { // not ours to follow
		if err := d.remove(name); err != nil {
			return err
		}
		fd, err = d.open(name, unix.O_RDWR|unix.O_CREAT)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	text := a.String()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return d.failed("stat", name, err)
	}
	if stat.Size > int64(len(text)) {
		if err := unix.Ftruncate(fd, int64(len(text))); err != nil {
			return d.failed("shorten", name, err)
		}
	}
	if _, err := unix.Pwrite(fd, []byte(text), 0); err != nil {
		return d.failed("write", name, err)
	}
	return nil
}
