package nft

import (
	"errors"
	"fmt"
	"io"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// library is google/nftables over our own peer: it encodes tables, chains, sets and
// rules, and decodes them. What it would send as a transaction is kept, so that it
// goes into ours (WithTestDial is how it lets a caller be the other side).
type library struct {
	*nftables.Conn
	peer peer
	kept []netlink.Message
	// reads says which answers are decoded, by their bytes; nil: all.
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

// serve is called with what the library sends, and with nothing when it waits for
// more.
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
			err = nil // the table has gone since it was looked up, and the library would hide which error it was
		}
		if err != nil {
			return nil, unwrapErrno(err)
		}
		for _, answer := range answers {
			if l.reads != nil && !l.reads(answer.Data) {
				continue
			}
			answer.Header.Sequence, answer.Header.PID = request.Header.Sequence, request.Header.PID
			answer.Header.Flags &^= netlink.Multi // it is whole
			all = append(all, answer)
		}
	}
	if len(all) == 0 {
		return nil, io.EOF
	}
	return all, nil
}

// unwrapErrno gives the library what it can tell apart.
func unwrapErrno(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// messages are those of all that was staged since the last call.
func (l *library) messages() ([]netlink.Message, error) {
	if err := l.Flush(); err != nil {
		return nil, fmt.Errorf("encode for nftables: %w", err)
	}
	kept := l.kept
	l.kept = nil
	return kept, nil
}
