package bridge

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// rtnl is one rtnetlink socket for a whole ADD or DEL, which sends messages in batches. The
// library builds the messages but does not send them: it opens a socket for each, or uses
// the Go runtime's poller and waits for each answer, which took 11 more sockets and 120 more
// system calls for an ADD.
//
// The kernel has handled a batch when sendto(2) returns (netlink_rcv_skb,
// net/netlink/af_netlink.c), so an answer is there at once, or it was lost.
type rtnl struct {
	fd     int
	seq    uint32
	buffer []byte
	// events are those received of the groups that were joined, in order.
	events []event
}

type event struct {
	kind uint16
	data []byte
}

// step is one message of a batch.
type step struct {
	what     string // "add address 10.9.0.2/24 to eth0", for its error
	req      *nl.NetlinkRequest
	reply    uint16       // the type of the answer that it asks for; 0: none
	tolerate []unix.Errno // errors that count as success
}

// openRTNL opens a socket in the thread's namespace. groups is a mask of RTMGRP_*; 0 saves
// the bind(2), since the first message binds the socket, too.
func openRTNL(groups uint32) (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &rtnl{fd: fd, buffer: make([]byte, 1<<15)} // the kernel sends a dump in messages of at most this size
	if groups == 0 {
		return c, nil
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		c.close()
		return nil, fmt.Errorf("join netlink groups: %w", err)
	}
	return c, nil
}

func (c *rtnl) close() { _ = unix.Close(c.fd) } // all answers were read

// do sends the steps in one batch and returns the reply to each that asked for one, nil for
// the others. The error is that of the first step that failed; the kernel does the steps
// after it nevertheless.
func (c *rtnl) do(steps ...step) ([][]byte, error) {
	if len(steps) == 0 {
		return nil, nil
	}
	first := c.seq + 1
	var batch []byte
	for i, s := range steps {
		c.seq++
		s.req.Seq = c.seq
		if i == len(steps)-1 && s.reply == 0 {
			s.req.Flags |= unix.NLM_F_ACK // marks the end of the answers; errors come without it, too
		}
		batch = append(batch, aligned(s.req.Serialize())...)
	}
	if err := c.send(batch); err != nil {
		return nil, fmt.Errorf("%s: %w", steps[0].what, err)
	}
	a := answers{steps: steps, first: first, replies: make([][]byte, len(steps)), errs: make([]error, len(steps))}
	for !a.complete {
		messages, err := c.receive()
		if err != nil {
			return nil, fmt.Errorf("%s: wait for the kernel's answer: %w", steps[len(steps)-1].what, err)
		}
		for _, m := range messages {
			if !a.take(m) {
				c.note(m)
			}
		}
	}
	return a.replies, cmp.Or(a.errs...)
}

// answers collects the answers to the steps of a batch, whose first sequence number is
// first.
type answers struct {
	steps    []step
	first    uint32
	replies  [][]byte
	errs     []error
	complete bool
}

// take is false if m is no answer to the batch: an event, or a late answer to an earlier one.
func (a *answers) take(m nlMessage) bool {
	i := int(int32(m.Header.Seq - a.first))
	if i < 0 || i >= len(a.steps) || m.Header.Type != unix.NLMSG_ERROR && m.Header.Type != a.steps[i].reply {
		return false
	}
	if m.Header.Type == unix.NLMSG_ERROR {
		a.errs[i] = a.steps[i].refused(m.Data)
	} else {
		a.replies[i] = m.Data
	}
	a.complete = a.complete || i == len(a.steps)-1
	return true
}

// refused is the error of an NLMSG_ERROR (struct nlmsgerr); nil for success, and for what
// the step tolerates.
func (s step) refused(data []byte) error {
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
	if errno == 0 {
		return nil
	}
	if errno == unix.ERANGE && s.reply == unix.RTM_NEWLINK {
		errno = unix.ENODEV // the name is too long for a link (ifla_policy, net/core/rtnetlink.c)
	}
	if slices.Contains(s.tolerate, errno) {
		return nil
	}
	return fmt.Errorf("%s: %w", s.what, errno)
}

// ended is the error of an NLMSG_DONE, which has one if the dump ended before its time
// (netlink_dump, net/netlink/af_netlink.c).
func (s step) ended(data []byte) error {
	if len(data) < 4 {
		return nil
	}
	return s.refused(data)
}

func (c *rtnl) send(batch []byte) error {
	for {
		err := unix.Sendto(c.fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads what is there, without waiting; EAGAIN if nothing is.
func (c *rtnl) receive() ([]nlMessage, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return parseMessages(append([]byte(nil), c.buffer[:n]...)), nil
	}
}

// nlMessage is a parsed netlink message.
type nlMessage struct {
	Header unix.NlMsghdr
	Data   []byte
}

func parseMessages(b []byte) []nlMessage {
	var messages []nlMessage
	for len(b) >= unix.SizeofNlMsghdr {
		h := unix.NlMsghdr{
			Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
		}
		if h.Len < unix.SizeofNlMsghdr || int(h.Len) > len(b) {
			break
		}
		messages = append(messages, nlMessage{h, b[unix.SizeofNlMsghdr:h.Len]})
		b = b[min(len(b), (int(h.Len)+3)&^3):]
	}
	return messages
}

func (c *rtnl) note(m nlMessage) {
	if m.Header.Type >= unix.RTM_BASE {
		c.events = append(c.events, event{m.Header.Type, m.Data})
	}
}

// await waits until seen is true of all events so far. If events were lost, and at the end
// of limit, it asks lost instead, which looks at the kernel's state.
func (c *rtnl) await(limit time.Duration, seen func([]event) bool, lost func() (bool, error)) error {
	for end := time.Now().Add(limit); !seen(c.events); {
		messages, err := c.receive()
		for _, m := range messages {
			c.note(m)
		}
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EAGAIN) && time.Now().Before(end) {
			poll := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, int(time.Until(end).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for netlink events: %w", err)
			}
			continue
		}
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("receive netlink events: %w", err)
		}
		if ok, err := lost(); ok || err != nil {
			return err
		}
		if errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("timed out after %s", limit)
		}
	}
	return nil
}

// dump returns all messages of the type that answer the request. If the kernel reports that
// the list changed meanwhile, it asks again.
func (c *rtnl) dump(what string, req func() *nl.NetlinkRequest, kind uint16) ([][]byte, error) {
	list, err := dump.Complete(func() ([][]byte, error) { return c.dumpOnce(req(), kind) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return list, nil
}

func (c *rtnl) dumpOnce(req *nl.NetlinkRequest, kind uint16) ([][]byte, error) {
	c.seq++
	req.Seq = c.seq
	req.Flags |= unix.NLM_F_DUMP
	if err := c.send(req.Serialize()); err != nil {
		return nil, err
	}
	var list [][]byte
	var interrupted error
	for {
		messages, err := c.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Seq != c.seq:
				continue
			case m.Header.Type == unix.NLMSG_ERROR:
				return nil, step{what: "dump"}.refused(m.Data)
			case m.Header.Flags&unix.NLM_F_DUMP_INTR != 0:
				interrupted = netlink.ErrDumpInterrupted
			}
			if m.Header.Type == unix.NLMSG_DONE {
				return list, cmp.Or(step{what: "dump"}.ended(m.Data), interrupted)
			}
			if m.Header.Type == kind {
				list = append(list, m.Data)
			}
		}
	}
}

// aligned pads a message so that another can follow it in the batch.
func aligned(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}
