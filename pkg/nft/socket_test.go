package nft

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socketTo returns a socket whose other end is a function: it is called with the messages of
// one send and returns the answers; nil answers nothing. After hangUp it is not called any
// more.
func socketTo(t *testing.T, answer func([]netlink.Message) []netlink.Message) (s *socket, hangUp func()) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	waits(t, fds[0], unix.Timeval{Sec: 60})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fds[1], buffer)
			if err != nil || n == 0 {
				return
			}
			messages, err := splitMessages(buffer[:n])
			if err != nil {
				t.Error(err)
				return
			}
			if answers := answer(messages); answers != nil {
				if _, err := unix.Write(fds[1], encoded(answers)); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	hangUp = sync.OnceFunc(func() {
		_ = unix.Close(fds[0]) // so that the other side ends
		<-done
		_ = unix.Close(fds[1])
	})
	t.Cleanup(hangUp)
	return &socket{fd: fds[0], buffer: make([]byte, 32<<10)}, hangUp
}

// waits bounds how long the socket waits for an answer.
func waits(t *testing.T, fd int, limit unix.Timeval) {
	t.Helper()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
}

func encoded(messages []netlink.Message) (data []byte) {
	for _, m := range messages {
		data = binary.NativeEndian.AppendUint32(data, uint32(unix.NLMSG_HDRLEN+len(m.Data)))
		data = binary.NativeEndian.AppendUint16(data, uint16(m.Header.Type))
		data = binary.NativeEndian.AppendUint16(data, uint16(m.Header.Flags))
		data = binary.NativeEndian.AppendUint32(data, m.Header.Sequence)
		data = binary.NativeEndian.AppendUint32(data, 0)
		data = append(data, m.Data...)
	}
	return data
}

// reply returns an answer to a message.
func reply(to netlink.Message, kind netlink.HeaderType, flags netlink.HeaderFlags, errno unix.Errno) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: flags, Sequence: to.Header.Sequence},
		Data:   binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))),
	}
}

func dumpRequest(t *testing.T) netlink.Message {
	t.Helper()
	request, err := message(unix.NFT_MSG_GETRULE, nftables.TableFamilyINet, netlink.Dump, netlink.NewAttributeEncoder())
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// TestInterruptedDump: a dump during which rules changed is repeated, up to dumpTries times.
func TestInterruptedDump(t *testing.T) {
	const rule = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE)
	for _, test := range []struct{ interrupted, wantAsked int }{{0, 1}, {2, 3}, {dumpTries, dumpTries}} {
		asked := 0
		s, hangUp := socketTo(t, func(messages []netlink.Message) []netlink.Message {
			asked++
			var flags netlink.HeaderFlags
			if asked <= test.interrupted {
				flags = unix.NLM_F_DUMP_INTR
			}
			late := messages[0] // an answer to an earlier request
			late.Header.Sequence--
			return []netlink.Message{
				reply(late, rule, 0, 0),
				reply(messages[0], rule, netlink.Multi|flags, 0), reply(messages[0], rule, netlink.Multi, 0), reply(messages[0], netlink.Done, netlink.Multi, 0),
			}
		})
		answers, err := s.ask(dumpRequest(t))
		hangUp()
		if test.interrupted == dumpTries {
			if !errors.Is(err, unix.EINTR) {
				t.Errorf("interrupted every time: got %v, want %v", err, unix.EINTR)
			}
		} else if err != nil || len(answers) != 2 {
			t.Errorf("interrupted %d times: got %d answers, %v, want the two of the last listing", test.interrupted, len(answers), err)
		}
		if asked != test.wantAsked {
			t.Errorf("interrupted %d times: asked %d times, want %d", test.interrupted, asked, test.wantAsked)
		}
	}
}

// TestDumpThatFails: the error is in NLMSG_DONE.
func TestDumpThatFails(t *testing.T) {
	s, _ := socketTo(t, func(messages []netlink.Message) []netlink.Message {
		return []netlink.Message{reply(messages[0], netlink.Done, netlink.Multi, unix.ENOENT)}
	})
	if answers, err := s.ask(dumpRequest(t)); !errors.Is(err, unix.ENOENT) || len(answers) > 0 {
		t.Errorf("got %v, %v, want %v", answers, err, unix.ENOENT)
	}
}

// TestTransaction: begin, messages, end. Only the last message requests an acknowledgement, the
// first error is returned, and a missing answer is errLost.
func TestTransaction(t *testing.T) {
	element, err := elementMessage(unix.NFT_MSG_NEWSETELEM, netlink.Create|netlink.Acknowledge, []Element{port(mine, 80, 2)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		answer func(sent []netlink.Message) []netlink.Message
		want   error
	}{
		{"made", func(sent []netlink.Message) []netlink.Message {
			return []netlink.Message{reply(sent[2], netlink.Error, 0, 0)}
		}, nil},
		{"the first one fails", func(sent []netlink.Message) []netlink.Message {
			return []netlink.Message{reply(sent[1], netlink.Error, 0, unix.EEXIST), reply(sent[2], netlink.Error, 0, unix.ENOENT)}
		}, unix.EEXIST},
		{"no transaction at all", func(sent []netlink.Message) []netlink.Message {
			return []netlink.Message{reply(sent[0], netlink.Error, 0, unix.EOPNOTSUPP)}
		}, unix.EOPNOTSUPP},
		{"an answer to something else", func(sent []netlink.Message) []netlink.Message {
			other := sent[0]
			other.Header.Sequence--
			return []netlink.Message{reply(other, netlink.Error, 0, unix.EPERM), reply(sent[2], netlink.Error, 0, 0)}
		}, nil},
		{"no answer", func([]netlink.Message) []netlink.Message { return nil }, errLost},
	} {
		t.Run(test.name, func(t *testing.T) {
			var kinds []int
			var acknowledged []bool
			s, hangUp := socketTo(t, func(sent []netlink.Message) []netlink.Message {
				for _, m := range sent {
					kinds = append(kinds, int(m.Header.Type))
					acknowledged = append(acknowledged, m.Header.Flags&netlink.Acknowledge != 0)
				}
				return test.answer(sent)
			})
			if errors.Is(test.want, errLost) {
				waits(t, s.fd, unix.Timeval{Usec: 1000}) // for what never comes
			}
			err := s.commit([]netlink.Message{element, element})
			hangUp()
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			const add = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM
			if want := []int{unix.NFNL_MSG_BATCH_BEGIN, add, add, unix.NFNL_MSG_BATCH_END}; !slices.Equal(kinds, want) {
				t.Errorf("got messages %#x, want %#x", kinds, want)
			}
			if want := []bool{false, false, true, false}; !slices.Equal(acknowledged, want) {
				t.Errorf("got messages that ask for an answer %v, want the last alone, %v", acknowledged, want)
			}
		})
	}
}
