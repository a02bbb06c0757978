package record

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// endLimit bounds the wait for the end of namespaces, of all that a Prober is asked about
// together: each takes some ten milliseconds on an idle host, and longer where many end at
// once.
const endLimit = 5 * time.Second

// AwaitEnd is Life, but gives a namespace to which no path leads any more the time to
// end: after the last process has left it, or "ip netns del" has come back, the kernel
// itself holds it for some milliseconds (the last netlink socket goes after a grace
// period: netlink_release, net/netlink/af_netlink.c). It waits for the kernel's event, and
// only where the answer would be Alive otherwise, and no mount or process shows that it
// will stay (PathTo). It is for who is about to refuse something because of a holder, and
// is called without a lock.
func (p *Prober) AwaitEnd(s Stamp) (Life, error) {
	life, err := p.Life(s)
	if err != nil || life != Alive || s.NetNS.isThere() {
		return life, err
	}
	if number, ok := s.NetNS.number(); ok && PathTo(int(number)) != "" {
		return life, nil
	}
	ends, err := watchEnds()
	if err != nil {
		return life, err
	}
	defer ends.close()
	if p.patience.IsZero() {
		p.patience = time.Now().Add(endLimit)
	}
	for {
		if life, err = p.Life(s); err != nil || life != Alive || time.Now().After(p.patience) {
			return life, err
		}
		if err := ends.next(time.Until(p.patience)); err != nil {
			return life, err
		}
	}
}

// number makes sure that the kernel tells us of the namespace's end: of those that have a
// number in ours (see nsid.go), which it gives. ok is false where it has ended meanwhile, or
// cannot be asked about; then the wait has its limit.
func (n NetNS) number() (number int32, ok bool) {
	s, err := openIDs()
	if err != nil {
		return -1, false
	}
	defer s.close()
	var cookie uint64
	if _, err := fmt.Sscanf(n.ID, "%d:%d", &cookie, &number); err == nil && cookie == s.cookie {
		return number, true
	}
	fd, err := n.openHandle()
	if err != nil {
		return -1, false
	}
	defer func() { _ = unix.Close(fd) }() // opened to name it
	number, err = s.assign(fd)
	return number, err == nil && number >= 0
}

// endSocket hears of numbers that are free again (RTM_DELNSID, cleanup_net,
// net/core/net_namespace.c).
type endSocket struct{ fd int }

func watchEnds() (endSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return endSocket{}, fmt.Errorf("open netlink socket: %w", err)
	}
	const groups = 1 << (unix.RTNLGRP_NSID - 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return endSocket{}, errors.Join(fmt.Errorf("join netlink groups: %w", err), unix.Close(fd))
	}
	return endSocket{fd}, nil
}

func (s endSocket) close() { _ = unix.Close(s.fd) } // nothing was written

// next returns after an event, and when the time is over.
func (s endSocket) next(limit time.Duration) error {
	timeout := unix.NsecToTimeval(max(limit, time.Microsecond).Nanoseconds()) // 0 would be no limit
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("set time-out of netlink events: %w", err)
	}
	_, _, err := unix.Recvfrom(s.fd, make([]byte, 4096), 0)
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS):
		return nil
	}
	return fmt.Errorf("wait for the end of a namespace: %w", err)
}
