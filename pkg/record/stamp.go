package record

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Stamp is what decides whether something is still in use: the boot and the machine it was
// made on, and the container's network namespace. Records of every release are read, so
// keys of its JSON may be added but never change their meaning.
type Stamp struct {
	NetNS NetNS `json:"netns,omitzero"`
	// Boot is the boot id; if it is empty, nothing can be
	// proved.
	Boot string `json:"boot,omitempty"`
	// Machine is empty in records of releases that did not know it.
	Machine string `json:"machine,omitempty"`
	// Time is when the stamp was made, in whole seconds.
	Time time.Time `json:"time,omitzero"`
}

// NewStamp is a stamp of this boot of this machine. If the path is empty or is no network
// namespace, the stamp has none: nothing proves it dead until the machine boots again.
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

// Life is what is proved of a stamp.
type Life int

// Unknown is what has no proof either way: treat it as in use.
const (
	Unknown Life = iota
	Alive
	Dead
)

// Prober proves stamps dead or alive. The zero value is ready; one Prober serves
// any number of stamps, and reads what is the same for all of them once. It
// remembers nothing of a namespace, so that its word is always of now.
//
// A stamp is dead if
//
//   - it is of an earlier boot of this machine; or
//   - the kernel has given back the id that it had for the namespace (RTM_GETNSID),
//     which it does when the last reference is gone, whatever held it: a process, a
//     descriptor, a mount in any mount namespace, a socket that nobody has open any more; or
//   - the kernel finds no namespace by its handle (open_by_handle_at(2)), and is one
//     whose lookup knows every namespace and tells us of every one.
//
// What /proc lists is no proof: it does not show sockets, other pid namespaces,
// or what hidepid hides.
type Prober struct {
	host Host
	// handles says whether a handle that leads nowhere proves death; nil before
	// it was asked for.
	handles *bool
	// patience is when the waits of AwaitEnd are over; zero before the first.
	patience time.Time
}

// Life says what is proved of s. The error is that our own boot cannot be found
// out.
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
		return Unknown, nil // another kernel's namespace, or none
	case s.NetNS.isThere():
		return Alive, nil
	}
	return p.ask(s.NetNS), nil
}

// ask asks the kernel for a namespace that is not at its path any more.
func (p *Prober) ask(n NetNS) Life {
	if life := lifeOfID(n.ID); life != Unknown {
		return life
	}
	err := n.open()
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
