package nft

import (
	"errors"
	"fmt"
	"io"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// library is google/nftables on our own peer: it encodes and decodes tables, chains, sets
// and rules. What it would send as a transaction is kept for ours (WithTestDial lets a
// caller answer in the kernel's place).
type library struct {
	*nftables.Conn
	peer peer
	kept []netlink.Message
	// reads selects by their bytes the answers to decode; nil: all.
	reads func(data []byte) bool
}

func newLibrary(p peer) (*library, error) {
	l := &library{peer: p}
	conn, err := nftables.New(nftables.WithTestDial(l.serve))
	if err != nil {
		return nil, fmt.Errorf("set up nftables: %w", err)
	}
	l.Conn = conn
	return l, nil
}

// serve answers the library's messages; it is called with none when the library waits for
// more answers.
func (l *library) serve(messages []netlink.Message) ([]netlink.Message, error) {
	if len(messages) == 0 {
		return nil, io.EOF
	}
	if messages[0].Header.Type == unix.NFNL_MSG_BATCH_BEGIN {
		l.kept = append(l.kept, messages[1:len(messages)-1]...)
		return nil, io.EOF
	}
	var all []netlink.Message
	for _, request := range messages {
		answers, err := l.peer.ask(request)
		isDump := request.Header.Flags&netlink.Dump == netlink.Dump
		if isDump && errors.Is(err, unix.ENOENT) {
			err = nil // the table was deleted after it was looked up; the library would hide the error number
		}
		if err != nil {
			return nil, unwrapErrno(err)
		}
		for _, answer := range answers {
			if l.reads != nil && !l.reads(answer.Data) {
				continue
			}
			answer.Header.Sequence, answer.Header.PID = request.Header.Sequence, request.Header.PID
			answer.Header.Flags &^= netlink.Multi // the list is complete
			all = append(all, answer)
		}
	}
	if len(all) == 0 {
		return nil, io.EOF
	}
	return all, nil
}

// unwrapErrno returns the error number, which the library compares without unwrapping.
func unwrapErrno(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// messages returns what was staged since the last call.
func (l *library) messages() ([]netlink.Message, error) {
	if err := l.Flush(); err != nil {
		return nil, fmt.Errorf("encode for nftables: %w", err)
	}
	kept := l.kept
	l.kept = nil
	return kept, nil
}
