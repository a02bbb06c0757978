package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/sys/unix"
)

// Each network namespace has numbers for the others that it refers to (ip-netns(8),
// "list-id"). The kernel frees a number when the namespace ends, in cleanup_net
// (net/core/net_namespace.c), after the last reference of any kind is gone. So a free
// number proves the end, on every kernel and without a look at processes.
//
// The kernel itself picks the lowest free number, so that a number in use might be that
// of a later namespace. We therefore assign a random one, from firstChosen on, unless
// the namespace has one already. NetNS.ID is "<cookie>:<number>": numbers count only in the
// namespace that we are in, and its cookie (SO_NETNS_COOKIE, since 5.14) is
// unique in a boot. Before 5.14 there is no ID, and only a reboot or a handle proves
// anything.
const (
	firstChosen = 1 << 20
	lastChosen  = 1<<24 - 1
)

// assignID gives the namespace at path a number in ours, or finds the one that it has,
// and returns its NetNS.ID; "" if that fails.
func assignID(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	s, err := openIDs()
	if err != nil {
		return ""
	}
	defer s.close()
	for range 3 { // another namespace may have the random number
		if number, err := s.assign(fd); err == nil && number >= 0 {
			return fmt.Sprintf("%d:%d", s.cookie, number)
		}
	}
	return ""
}

// areApart says whether the IDs are those of two namespaces. It does not if one is missing, or
// if they count in different namespaces.
func areApart(a, b string) bool {
	inA, _, okA := strings.Cut(a, ":")
	inB, _, okB := strings.Cut(b, ":")
	return okA && okB && inA == inB && a != b
}

// lifeOfID is Dead if the number is free, Alive if it is in use and was chosen by us.
// Unknown otherwise, as for a number that counts in another namespace than ours.
func lifeOfID(id string) Life {
	var cookie uint64
	var number int32
	if _, err := fmt.Sscanf(id, "%d:%d", &cookie, &number); err != nil {
		return Unknown
	}
	s, err := openIDs()
	if err != nil {
		return Unknown
	}
	defer s.close()
	if s.cookie != cookie {
		return Unknown
	}
	_, err = s.ask(idMessage(unix.RTM_GETNSID, attribute(unix.NETNSA_NSID, uint32(number))))
	switch {
	case errors.Is(err, unix.ENOENT):
		return Dead
	case err == nil && number >= firstChosen:
		return Alive
	}
	return Unknown
}

// idSocket asks for numbers. The answer is there when sendto(2) returns (rtnetlink_rcv
// is synchronous), so that it never waits.
type idSocket struct {
	fd     int
	cookie uint64 // of our own namespace
}

func openIDs() (idSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return idSocket{}, err
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		_ = unix.Close(fd) // nothing was written
	}
	return idSocket{fd, cookie}, err
}

func (s idSocket) close() { _ = unix.Close(s.fd) } // each answer was checked

// assign sends two messages at once: assign a random number to the namespace, and which
// number has it? The first fails if it has one already.
func (s idSocket) assign(netns int) (int32, error) {
	target := attribute(unix.NETNSA_FD, uint32(netns))
	number := firstChosen + rand.Uint32N(lastChosen-firstChosen)
	return s.ask(append(
		idMessage(unix.RTM_NEWNSID, append(attribute(unix.NETNSA_NSID, number), target...)),
		idMessage(unix.RTM_GETNSID, target)...))
}

// ask sends one or two messages, of which the last is an RTM_GETNSID, and returns the
// number that answers it; it is negative if the namespace has none.
func (s idSocket) ask(messages []byte) (int32, error) {
	if err := unix.Sendto(s.fd, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, err
	}
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return -1, err
		}
		if number, ok, err := parseIDAnswer(buf[:n]); ok || err != nil {
			return number, err
		}
	}
}

// parseIDAnswer reads one answer; ok is false for that to an RTM_NEWNSID.
func parseIDAnswer(data []byte) (number int32, ok bool, err error) {
	const header, errorEnd, attributes = unix.SizeofNlMsghdr, unix.SizeofNlMsghdr + 4, unix.SizeofNlMsghdr + 4
	if len(data) < errorEnd {
		return -1, false, unix.EBADMSG
	}
	kind := binary.NativeEndian.Uint16(data[4:])
	if kind == unix.NLMSG_ERROR {
		if len(data) < errorEnd+header {
			return -1, false, unix.EBADMSG
		}
		if binary.NativeEndian.Uint16(data[errorEnd+4:]) == unix.RTM_NEWNSID {
			return -1, false, nil
		}
		return -1, false, unix.Errno(-int32(binary.NativeEndian.Uint32(data[header:])))
	}
	for rest := data[attributes:]; len(rest) >= 8; {
		length := int(binary.NativeEndian.Uint16(rest))
		if binary.NativeEndian.Uint16(rest[2:]) == unix.NETNSA_NSID {
			return int32(binary.NativeEndian.Uint32(rest[4:])), true, nil
		}
		rest = rest[min(max(length+3, 4)&^3, len(rest)):]
	}
	return -1, false, unix.EBADMSG
}

// idMessage is a request with a struct rtgenmsg and attributes.
func idMessage(kind uint16, attributes []byte) []byte {
	length := unix.SizeofNlMsghdr + 4 + len(attributes)
	m := binary.NativeEndian.AppendUint32(nil, uint32(length))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST)
	m = append(m, make([]byte, 12)...) // sequence, port; the rtgenmsg, padded
	return append(m, attributes...)
}

func attribute(kind uint16, value uint32) []byte {
	a := binary.NativeEndian.AppendUint16(nil, 8)
	a = binary.NativeEndian.AppendUint16(a, kind)
	return binary.NativeEndian.AppendUint32(a, value)
}
