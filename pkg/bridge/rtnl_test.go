package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// kernel is a peer that is a function: it gets the messages that were sent at once, and
// gives the answers, a datagram each.
type kernel func(asked []nlMessage) [][]byte

// connect is an rtnl that asks it.
func (k kernel) connect(t *testing.T) *rtnl {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &rtnl{fd: ends[0], buffer: make([]byte, 1<<15), seq: ^uint32(0) - 2} // about to begin anew
	t.Cleanup(c.close)
	go func() {
		defer func() { _ = unix.Close(ends[1]) }() // the test is over
		buffer := make([]byte, 1<<15)
		for {
			n, err := unix.Read(ends[1], buffer)
			if n <= 0 || err != nil {
				return
			}
			for _, answer := range k(parseMessages(slices.Clone(buffer[:n]))) {
				_, _ = unix.Write(ends[1], answer) // the test notices what is missing
			}
		}
	}()
	return c
}

// answer is a message with a header.
func answer(kind, flags uint16, seq uint32, data []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return aligned(append(b, data...))
}

func refusal(seq uint32, errno unix.Errno) []byte {
	return answer(unix.NLMSG_ERROR, 0, seq, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))
}

// TestBatch: each step has its own answer, whichever come in one datagram; a refusal is the
// step's, unless it bears it, and keeps nothing from the others.
func TestBatch(t *testing.T) {
	event := answer(unix.RTM_DELLINK, 0, 0, newLinkMessage())
	for _, test := range []struct {
		name    string
		answers map[int]unix.Errno // by step; the others are done
		want    string             // of the error
	}{
		{"all done", nil, ""},
		{"there is none to delete", map[int]unix.Errno{1: unix.ENODEV}, ""},
		{"one of them refused", map[int]unix.Errno{1: unix.EBUSY}, "delete old: " + unix.EBUSY.Error()},
		{"the first of two refusals", map[int]unix.Errno{0: unix.ENODEV, 2: unix.EEXIST}, "look up br0: " + unix.ENODEV.Error()},
		{"a name longer than any link's", map[int]unix.Errno{0: unix.ERANGE}, "look up br0: " + unix.ENODEV.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			link := newLinkMessage(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("br0")))
			acks := make(chan []bool, 1) // which messages ask for one
			c := kernel(func(messages []nlMessage) [][]byte {
				all := [][]byte{refusal(messages[0].Header.Seq-1, unix.EPERM)} // to what was asked before
				var asked []bool
				for i, m := range messages {
					errno, refused := test.answers[i]
					asked = append(asked, m.Header.Flags&unix.NLM_F_ACK != 0)
					switch {
					case refused:
						all = append(all, refusal(m.Header.Seq, errno))
					case i == 0:
						all = append(all, append(answer(unix.RTM_NEWLINK, 0, m.Header.Seq, link), event...))
					case i == len(messages)-1:
						all = append(all, refusal(m.Header.Seq, 0))
					}
				}
				acks <- asked
				return all
			}).connect(t)
			for range 2 { // the numbers begin anew in the first
				replies, err := c.do(lookUp("br0"), deleteIndex(7, "old"), portFlags(Port{Name: "veth1", Alias: "a"}))
				if test.want == "" && (err != nil || len(replies) != 3 || !bytes.Equal(replies[0], link) || replies[1] != nil) {
					t.Errorf("got %q, %v, want the link, and that all is done", replies, err)
				}
				if test.want != "" && (err == nil || err.Error() != test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if netns.IsLinkGone(err) != strings.HasSuffix(test.want, unix.ENODEV.Error()) && test.want != "" {
					t.Errorf("%v: is the link gone: %t", err, netns.IsLinkGone(err))
				}
				if asked := <-acks; !slices.Equal(asked, []bool{false, false, true}) {
					t.Errorf("got %v, want an answer asked of the last step alone", asked)
				}
			}
			if _, refused := test.answers[0]; !refused && (len(c.events) != 2 || c.events[0].kind != unix.RTM_DELLINK) {
				t.Errorf("got events %v, want one each time", c.events)
			}
		})
	}
}

// TestDumpAgain: a list that changed meanwhile is asked for again, and what an earlier
// question has left unread belongs to none.
func TestDumpAgain(t *testing.T) {
	link := func(name string) []byte {
		return newLinkMessage(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	var times atomic.Int32
	c := kernel(func(asked []nlMessage) [][]byte {
		seq, changed := asked[0].Header.Seq, uint16(0)
		if times.Add(1) == 1 {
			changed = unix.NLM_F_DUMP_INTR
		}
		return [][]byte{
			answer(unix.RTM_NEWLINK, 0, seq-1, link("stale")),
			append(answer(unix.RTM_NEWLINK, changed, seq, link("lo")), answer(unix.RTM_NEWLINK, 0, seq, link("br0"))...),
			answer(unix.NLMSG_DONE, 0, seq, make([]byte, 4)),
		}
	}).connect(t)
	links, err := c.list(0)
	if err != nil || times.Load() != 2 || len(links) != 2 || links[0].name != "lo" || links[1].name != "br0" {
		t.Errorf("got %v, %v, asked %d times, want lo and br0 of the second time", links, err, times.Load())
	}
	refused := kernel(func(asked []nlMessage) [][]byte { return [][]byte{refusal(asked[0].Header.Seq, unix.EPERM)} }).connect(t)
	if _, err := refused.list(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want %v", err, unix.EPERM)
	}
}
