package cni

import (
	"errors"
	"runtime/debug"
	"slices"
	"strings"
)

// State is one kind of what attachments have on a host. Each is made by one package,
// and whatever is done for all of them, GC, STATUS and `trestle restore`, goes through
// the list that each Plugin has, and plugins/registry has of all.
type State struct {
	Package string // that makes it, "pkg/nat"
	What    string // for people: "masquerade and mapped ports"

	// GC takes back what is of no attachment of the request's network that is valid.
	// It bears a configuration that was edited into nonsense.
	GC func(*Request, Valid) error
	// Status says whether an ADD could be served; the configuration is sound. nil:
	// there is nothing to ask.
	Status func(*Request) error
	// Restore makes again, from records, what others have taken, like a reload of a
	// firewall, and tells; nil: nobody takes it but with the attachment.
	Restore func(*Restored) error
}

// Restored is what the Restores found, for people and for programs.
type Restored struct {
	// Networks are those with a record, and what of each was missing and is made again.
	Networks map[string][]Made `json:"networks"`
	// Shared says that rules were missing which all networks share.
	Shared bool `json:"shared"`
	// Released are attachments whose containers are gone. Of Taken and Void the kernel
	// told alone: a link or a lease stands for the former, and nobody for the latter.
	Released []string `json:"released"`
	Taken    []string `json:"taken"`
	Void     []string `json:"void"`
	// Refused are mapped ports that a record has and another attachment has got: whose,
	// which, and who has it. Nothing is made of them.
	Refused []string `json:"refused"`
}

// Made is one kind of thing that was made again.
type Made struct {
	What  string   `json:"what"`            // "mapped ports"
	Of    []string `json:"of,omitempty"`    // whose, container/interface
	Count int      `json:"count,omitempty"` // how many, where it is not told whose
}

// Add notes the network or attachment with the label, and what of it was made.
func (r *Restored) Add(label string, made ...Made) {
	network, attachment, _ := strings.Cut(label, "/")
	if r.Networks == nil {
		r.Networks = map[string][]Made{}
	}
	all := r.Networks[network]
	for _, m := range made {
		at := slices.IndexFunc(all, func(a Made) bool { return a.What == m.What })
		if at < 0 {
			at, all = len(all), append(all, m)
		}
		if attachment != "" {
			all[at].Of = append(all[at].Of, attachment)
		}
	}
	r.Networks[network] = all
}

// GC asks each kind of state that the plugin makes, whatever becomes of the others.
func (p Plugin) GC(r *Request) error {
	// the process ends before a megabyte for each hundred attachments is worth the search
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	valid, err := r.Valid()
	if err != nil {
		return err
	}
	for _, state := range p.States {
		err = errors.Join(err, Catch(func() error { return state.GC(r, valid) }))
	}
	return err
}

// Status says what is wrong with the configuration, or with the host for it.
func (p Plugin) Status(r *Request) error {
	err := p.Validate(r)
	if err != nil {
		return err
	}
	for _, state := range p.States {
		if state.Status != nil {
			err = errors.Join(err, state.Status(r))
		}
	}
	return err
}
