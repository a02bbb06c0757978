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
	// ask sends one request and returns its answers, all of a dump's. An NLMSG_ERROR is
	// returned as error.
	ask(netlink.Message) ([]netlink.Message, error)
	// commit sends messages as one transaction. The error is the kernel's first, a
	// unix.Errno, or errLost.
	commit([]netlink.Message) error
	io.Closer
}

// errLost says that a transaction was sent and its answer did not arrive: it may
// have been committed.
var errLost = errors.New("the kernel's answer was lost")

// socket is the peer that is the kernel, by a blocking netlink socket. The library's own
// sockets are not used. They are registered with Go's poller, which costs a dozen system
// calls each; they request an acknowledgement and an echo of every message, for which the
// receive buffer is too small after a large transaction (ENOBUFS: it is unknown what was
// committed); and our own messages could not be sent by them.
type socket struct {
	fd       int
	sequence uint32
	buffer   []byte
}

// answerTimeout is generous: the kernel answers at once, unless a transaction has to wait
// for another program's, which takes tens of milliseconds.
const answerTimeout = 30 * time.Second

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	s := &socket{
		fd:     fd,
		buffer: make([]byte, 32<<10), // the most that a dump puts into one message (netlink_dump, net/netlink/af_netlink.c)
	}
	// An error does not repeat the message that it is about: nobody reads it, and a large
	// one would fill the buffer.
	err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the netlink socket for nftables: %w", err), s.Close())
	}
	return s, nil
}

// Close waits until the kernel has freed what any program deleted before (nft_rcv_nl_event,
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
			interrupted = true // the dump is repeated, but only after its end: one at a time
			continue
		case errors.Is(err, unix.ENOBUFS):
			return nil, true, nil
		case err != nil:
			return nil, false, err
		}
		for _, m := range messages {
			if m.Header.Sequence != first {
				continue // an answer to an earlier request that was given up
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

// commit requests an acknowledgement of the last message only: before it the kernel has
// reported the errors of all others (nfnl_err_deliver, net/netfilter/nfnetlink.c).
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
			// If the kernel rejects the whole batch, the error is about its begin message.
			if m.Header.Sequence == last || m.Header.Sequence == first {
				return failed
			}
		}
	}
}

// makeRoom raises the send buffer if the transaction, which is one datagram, would not fit.
// The kernel doubles the size that is set, and counts its own overhead against it.
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
		data = append(data, m.Data...)                   // of a length that is a multiple of 4, since attributes are padded
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

// splitMessages returns messages in a copy of data, so that the buffer can be reused.
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

// errnoOf returns the error number of an NLMSG_ERROR or NLMSG_DONE (struct nlmsgerr,
// linux/netlink.h).
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
