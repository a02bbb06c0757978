package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// peer answers netlink messages: the kernel, or a function in a test.
type peer interface {
	// ask sends one request and gives its answers, a dump's in one list. An
	// answer that is an error is the error.
	ask(netlink.Message) ([]netlink.Message, error)
	// commit sends messages as one transaction. The error is the first of the
	// kernel's, an unix.Errno, or errLost.
	commit([]netlink.Message) error
	io.Closer
}

// errLost says that a transaction was sent and its answer did not arrive: it may
// have been committed.
var errLost = errors.New("the kernel's answer was lost")

// socket is the kernel, by a blocking netlink socket. The library's own sockets are
// known to Go's poller, which costs a dozen system calls each, ask an
// acknowledgement and an echo of every message, which a large transaction's socket
// has no room for (ENOBUFS, and nobody knows what was committed), and one of them
// could not be shared by what is sent by hand.
type socket struct {
	fd       int
	sequence uint32
	buffer   []byte
}

// An answer takes no time at all, but for a transaction that waits for another
// program's: those take tens of milliseconds.
const answerTimeout = 30 * time.Second

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	s := &socket{
		fd:     fd,
		buffer: make([]byte, 32<<10),
	} // the most that a dump puts into one message (netlink_dump, net/netlink/af_netlink.c)
	// Errors come without the message that they are about: nobody reads it, and a
	// large one would fill the buffer.
	err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the netlink socket for nftables: %w", err), s.Close())
	}
	return s, nil
}

// Close waits for what was deleted before, by anybody (nft_rcv_nl_event,
// net/netfilter/nf_tables_api.c).
func (s *socket) Close() error { return unix.Close(s.fd) }

const dumpTries = 10

func (s *socket) ask(request netlink.Message) ([]netlink.Message, error) {
	for range dumpTries {
		answers, interrupted, err := s.askOnce(request)
		if err != nil || !interrupted {
			return answers, err
		}
	}
	return nil, fmt.Errorf("nftables' rules change faster than they can be listed: %w", unix.EINTR)
}

func (s *socket) askOnce(request netlink.Message) (answers []netlink.Message, interrupted bool, err error) {
	first := s.sequence + 1
	if err := s.send([]netlink.Message{request}); err != nil {
		return nil, false, err
	}
	isDump := request.Header.Flags&netlink.Dump == netlink.Dump
	for {
		messages, err := s.receive()
		switch {
		case errors.Is(err, unix.ENOBUFS) && isDump:
			interrupted = true // it is asked again at its end, before which no other can begin
			continue
		case errors.Is(err, unix.ENOBUFS):
			return nil, true, nil
		case err != nil:
			return nil, false, err
		}
		for _, m := range messages {
			if m.Header.Sequence != first {
				continue // of an earlier request that was given up
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Header.Type == netlink.Error || m.Header.Type == netlink.Done {
				return answers, interrupted, errorOf(m)
			}
			if answers = append(answers, m); !isDump && request.Header.Flags&netlink.Acknowledge == 0 {
				return answers, interrupted, nil
			}
		}
	}
}

// commit asks an acknowledgement of the last message alone: by then the kernel has
// said what is wrong with any other (nfnl_err_deliver, net/netfilter/nfnetlink.c).
func (s *socket) commit(messages []netlink.Message) error {
	size := 0
	for i := range messages {
		messages[i].Header.Flags &^= netlink.Acknowledge | unix.NLM_F_ECHO
		size += len(messages[i].Data) + unix.NLMSG_HDRLEN
	}
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	if err := s.makeRoom(size); err != nil {
		return err
	}
	batch := make([]netlink.Message, 0, len(messages)+2)
	batch = append(batch, batchMessage(unix.NFNL_MSG_BATCH_BEGIN))
	batch = append(batch, messages...)
	batch = append(batch, batchMessage(unix.NFNL_MSG_BATCH_END))
	first := s.sequence + 1
	if err := s.send(batch); err != nil {
		return err
	}
	return s.await(first, first+uint32(len(messages)))
}

// await reads answers up to that of the last message.
func (s *socket) await(first, last uint32) error {
	var failed error
	for {
		messages, err := s.receive()
		if err != nil {
			return errors.Join(failed, errLost, err)
		}
		for _, m := range messages {
			if m.Header.Type != netlink.Error || m.Header.Sequence-first > last-first {
				continue
			}
			if errno := errnoOf(m); errno != 0 && failed == nil {
				failed = errno
			}
			// The batch's own begin has the error of one that could not be taken at all.
			if m.Header.Sequence == last || m.Header.Sequence == first {
				return failed
			}
		}
	}
}

// makeRoom raises the send buffer where a transaction, which is sent as a whole,
// would not fit. The kernel counts twice what it is asked for, and its own overhead.
func (s *socket) makeRoom(size int) error {
	if size < 64<<10 {
		return nil
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*size); err != nil {
		return fmt.Errorf("make room for a transaction of %d bytes: %w", size, err)
	}
	return nil
}

func (s *socket) send(messages []netlink.Message) error {
	var data []byte
	for _, m := range messages {
		s.sequence++
		data = binary.NativeEndian.AppendUint32(data, uint32(unix.NLMSG_HDRLEN+len(m.Data)))
		data = binary.NativeEndian.AppendUint16(data, uint16(m.Header.Type))
		data = binary.NativeEndian.AppendUint16(data, uint16(m.Header.Flags))
		data = binary.NativeEndian.AppendUint32(data, s.sequence)
		data = binary.NativeEndian.AppendUint32(data, 0) // the kernel knows who we are
		data = append(data, m.Data...)                   // attributes fill whole words
	}
	if err := unix.Sendto(s.fd, data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to nftables: %w", err)
	}
	return nil
}

func (s *socket) receive() ([]netlink.Message, error) {
	n, _, err := unix.Recvfrom(s.fd, s.buffer, 0)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(s.fd, s.buffer, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("receive from nftables: %w", err)
	}
	return splitMessages(s.buffer[:n])
}

// splitMessages copies, so that the buffer can be used again.
func splitMessages(data []byte) ([]netlink.Message, error) {
	data = append([]byte(nil), data...)
	var messages []netlink.Message
	for len(data) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(data))
		if length < unix.NLMSG_HDRLEN || length > len(data) {
			return nil, fmt.Errorf("a message of nftables has %d bytes and says %d", len(data), length)
		}
		messages = append(messages, netlink.Message{
			Header: netlink.Header{
				Length: uint32(length), Type: netlink.HeaderType(binary.NativeEndian.Uint16(data[4:])),
				Flags: netlink.HeaderFlags(binary.NativeEndian.Uint16(data[6:])), Sequence: binary.NativeEndian.Uint32(data[8:]),
			},
			Data: data[unix.NLMSG_HDRLEN:length],
		})
		data = data[min(len(data), (length+3)&^3):]
	}
	return messages, nil
}

// errnoOf is the error of an NLMSG_ERROR or NLMSG_DONE (struct nlmsgerr, linux/netlink.h).
func errnoOf(m netlink.Message) unix.Errno {
	if len(m.Data) < 4 {
		return 0
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
}

// errorOf is errnoOf as an error, nil where there is none.
func errorOf(m netlink.Message) error {
	if errno := errnoOf(m); errno != 0 {
		return errno
	}
	return nil
}

func batchMessage(kind int) netlink.Message {
	// struct nfgenmsg; the subsystem is in network order
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}
