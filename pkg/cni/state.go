package cni

import "errors"

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
	// firewall; nil: nobody takes it but with the attachment.
	Restore func() error
}

// GC asks each kind of state that the plugin makes, whatever becomes of the others.
func (p Plugin) GC(r *Request) error {
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
