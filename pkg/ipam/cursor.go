package ipam

import (
	"errors"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// The cursor of a range set is the address that was leased last. It is in the file
// last_reserved_ip.<number of the set>, as host-local writes it.
const cursorPrefix = "last_reserved_ip."

const cursorMax = 64

func cursorName(set int) string { return cursorPrefix + strconv.Itoa(set) }

// readCursor is the cursor of a set; invalid if it cannot be read: then the round robin
// starts again, and nothing worse happens.
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

// writeCursor writes the cursor of a set. It shortens the file if need be and then writes it
// in place. A kill in between leaves a wrong cursor, which only changes the order of one
// round.
func writeCursor(d dir, set int, a netip.Addr) error {
	name := cursorName(set)
	fd, err := d.open(name, unix.O_RDWR|unix.O_CREAT)
	if errors.Is(err, unix.ELOOP) { // a symbolic link, which is not followed
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
