package cni

import (
	"errors"
	"runtime/debug"
	"slices"
	"strings"
)

// State is one kind of state that attachments have on a host. One package makes each kind.
// Each Plugin lists its kinds, and plugins/registry those of all; GC, STATUS and `trestle
// restore` go through these lists.
type State struct {
	Package string // the package that makes it, "pkg/nat"
	What    string // for people: "masquerade and mapped ports"

	// GC removes what no valid attachment of the request's network has. It must work even
	// if the configuration has become invalid since the ADD.
	GC func(*Request, Valid) error
	// Status is an error if an ADD could not be served; the configuration is valid. nil if
	// there is nothing to ask.
	Status func(*Request) error
	// Restore makes again, from records, what others have removed, like the reload of a
	// firewall. nil if nothing removes this kind without the attachment.
	Restore func(*Restored) error
}

// Restored is what the Restores found and made, for people and for programs.
type Restored struct {
	// Networks are the networks with a record, with what was missing and was made again.
	Networks map[string][]Made `json:"networks"`
	// Shared says that rules were missing which all networks share.
	Shared bool `json:"shared"`
	// Released are the attachments whose containers are gone. Taken and Void had state in
	// the kernel but no record: those in Taken have a link or a lease and got a record, those
	// in Void have neither, and were removed.
	Released []string `json:"released"`
	Taken    []string `json:"taken"`
	Void     []string `json:"void"`
	// Refused are recorded port mappings whose port another attachment has now: whose, which
	// port, and who has it. They were not made again.
	Refused []string `json:"refused"`
}

// Made is one kind of state that was made again.
type Made struct {
	What  string   `json:"what"`            // "mapped ports"
	Of    []string `json:"of,omitempty"`    // the attachments, as container/interface
	Count int      `json:"count,omitempty"` // how many, if the attachments are not named
}

// Add notes that the network or attachment with the label has a record, and what of it was
// made again.
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

// GC runs the GC of each kind of state, even if others fail, and joins their errors.
func (p Plugin) GC(r *Request) error {
	// a GC allocates a megabyte for each hundred attachments and exits: collecting that
	// garbage would only take time
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

// Status is an error if the configuration is wrong, or if the host lacks what it needs.
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
