package record

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Stamp tells in which boot of which machine an attachment was made, and in which network
// namespace: by these a Prober finds out whether it is still alive. Records of every release
// are read, so keys of its JSON may be added but must never change their meaning.
type Stamp struct {
	NetNS NetNS `json:"netns,omitzero"`
	// Boot is the boot id; if it is empty, nothing can be proved.
	Boot string `json:"boot,omitempty"`
	// Machine is empty in records of releases that did not write it.
	Machine string `json:"machine,omitempty"`
	// Time is when the stamp was made, in whole seconds.
	Time time.Time `json:"time,omitzero"`
}

// NewStamp is a stamp of this boot of this machine, with the network namespace at the path.
// If there is none, only a reboot proves the stamp dead.
func NewStamp(netns string) (Stamp, error) {
	boot, err := BootID()
	if err != nil {
		return Stamp{}, err
	}
	return Stamp{
		NetNS:   Identify(netns),
		Boot:    boot,
		Machine: machineID(),
		Time:    time.Now().UTC().Truncate(time.Second),
	}, nil
}

// Equal says whether both are the same stamp.
func (s Stamp) Equal(other Stamp) bool {
	return s.NetNS == other.NetNS && s.Boot == other.Boot && s.Machine == other.Machine && s.Time.Equal(other.Time)
}

// Life is what a Prober has proved of a stamp.
type Life int

// Unknown means that there is no proof either way: treat it as in use.
const (
	Unknown Life = iota
	Alive
	Dead
)

// Prober proves stamps dead or alive. The zero value is ready to use. One Prober serves any
// number of stamps: it reads boot and machine once, but keeps nothing about a namespace, so
// that each answer is current.
//
// A stamp is dead if
//
//   - it is of an earlier boot of this machine; or
//   - the kernel has freed the number that it had for the namespace (RTM_GETNSID),
//     which it does after the last reference is gone, whatever held it: a process, a
//     descriptor, a mount in any mount namespace, a socket that nobody has open any more; or
//   - the kernel finds no namespace by its handle (open_by_handle_at(2)), and is one
//     that finds every namespace by its handle and lets us open it.
//
// That /proc does not list a namespace is no proof: it does not show sockets, other pid
// namespaces, or what hidepid hides.
type Prober struct {
	host Host
	// handles says whether a handle that the kernel does not find proves the end of its
	// namespace; nil until the first question.
	handles *bool
	// patience is when the waits of AwaitEnd are over; zero before the first.
	patience time.Time
}

// Life says what is proved of s. It fails only if our own boot id cannot be read.
func (p *Prober) Life(s Stamp) (Life, error) {
	if s.Boot == "" {
		return Unknown, nil
	}
	if p.host.Boot == "" {
		var err error
		if p.host, err = ThisHost(); err != nil {
			return Unknown, err
		}
	}
	switch {
	case p.host.Outlived(s):
		return Dead, nil
	case s.Boot != p.host.Boot || !s.NetNS.known():
		return Unknown, nil // the namespace of another machine, or none
	case s.NetNS.isThere():
		return Alive, nil
	}
	return p.ask(s.NetNS), nil
}

// ask asks the kernel about a namespace that is not at its path any more: by its number,
// then by its handle.
func (p *Prober) ask(n NetNS) Life {
	if life := lifeOfID(n.ID); life != Unknown {
		return life
	}
	err := n.probe()
	switch {
	case err == nil:
		return Alive
	case errors.Is(err, unix.ESTALE) && p.handlesProve():
		return Dead
	}
	return Unknown
}

func (p *Prober) handlesProve() bool {
	if p.handles == nil {
		prove := handlesProve() && maySeeAll()
		p.handles = &prove
	}
	return *p.handles
}
