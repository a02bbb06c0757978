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

// AwaitEnd is Life, but waits for a namespace that is about to end: after its last process
// has exited, or "ip netns del" has returned, the kernel keeps it for some milliseconds
// (it frees the last netlink socket after a grace period: netlink_release,
// net/netlink/af_netlink.c). AwaitEnd waits for the kernel's event, and only if Life says
// Alive although the namespace is not at its path any more, and no mount or process shows
// that it stays (PathTo). It is for a caller that is about to refuse something because of the
// stamp's owner; the caller holds no lock meanwhile.
//
// A process that runs in a namespace without a path is taken for a container that lives on, and
// is not waited for. No runtime takes the path away while it still ends processes: containerd,
// CRI-O and podman kill, wait until all have exited, run DEL, and unmount last; nerdctl's path is
// /proc/PID/ns/net, whose hook runs when the process has been reaped, and with it all of its pid
// namespace (zap_pid_ns_processes, kernel/pid_namespace.c). Where somebody kills and unmounts at
// once, the processes have SIGKILL pending or
// are exiting: such ones keep nothing (isEnding), and their end is waited for. What is left is who
// unmounted below a live container ("umount -l", "ip netns del"), or made its mount where we do
// not see it: that namespace stays for hours, and to wait for it would make each ADD on a full
// pool take endLimit.
func (p *Prober) AwaitEnd(s Stamp) (Life, error) {
	life, err := p.Life(s)
	if err != nil || life != Alive {
		return life, err
	}
	if _, err := p.AwaitAny([]Stamp{s}); err != nil {
		return life, err
	}
	return p.Life(s)
}

// AwaitAny is AwaitEnd for the owners of what is all the same to the caller, as the addresses of a
// pool are: it waits until one of the stamps is Dead, and says whether one is. It returns at
// once if none of their namespaces is about to end.
func (p *Prober) AwaitAny(all []Stamp) (dead bool, err error) {
	waited := ending(all)
	if len(waited) == 0 {
		return false, nil
	}
	ends, err := watchEnds()
	if err != nil {
		return false, err
	}
	defer ends.close()
	if p.patience.IsZero() {
		p.patience = time.Now().Add(endLimit)
	}
	for {
		alive := false
		for _, s := range waited {
			life, err := p.Life(s)
			if err != nil || life == Dead {
				return life == Dead, err
			}
			alive = alive || life == Alive
		}
		if !alive || time.Now().After(p.patience) {
			return false, nil
		}
		if err := ends.next(time.Until(p.patience)); err != nil {
			return false, err
		}
	}
}

// ending are those of the stamps of which the namespace is not at its path any more, and no
// mount or process shows that it stays.
func ending(all []Stamp) []Stamp {
	var gone []Stamp
	var numbers []int32         // of gone; -1 for none
	paths := map[int32]string{} // by number
	for _, s := range all {
		if s.NetNS.isThere() {
			continue
		}
		number, ok := s.NetNS.number()
		if ok {
			paths[number] = ""
		} else {
			number = -1
		}
		gone, numbers = append(gone, s), append(numbers, number)
	}
	findPaths(paths)
	var ending []Stamp
	for i, s := range gone {
		if paths[numbers[i]] == "" {
			ending = append(ending, s)
		}
	}
	return ending
}

// number is the namespace's number in ours (see nsid.go), which it gets if it has none,
// since the kernel announces the end of numbered namespaces only. ok is false if it has ended
// meanwhile, or has none: without an event, the wait ends at its limit.
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

// endSocket receives an event whenever a number becomes free, that is, when its namespace
// has ended (RTM_DELNSID, cleanup_net, net/core/net_namespace.c).
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

// next returns after an event, or when the time is over.
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
