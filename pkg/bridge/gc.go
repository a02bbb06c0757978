package bridge

import (
	"errors"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// GC deletes the links of the network's attachments that are not valid, and host veths
// on its bridge that have no alias, because their ADD was killed before it set one. It goes on after a failure and joins the errors. Without a list
// nothing is provably dead: a link whose container is gone is gone itself.
// An empty list says that nobody is left, and an idle bridge goes as well.
func (h *Host) GC(c Config, network string, valid cni.Valid) error {
	failed := h.forgetGone()
	if valid.Known {
		failed = errors.Join(failed, h.gcLinks(c, network, valid))
	}
	if c.Transient || valid.IsEmpty() {
		failed = errors.Join(failed, h.ReapBridge(c.Bridge))
	}
	return failed
}

// HasLink says whether there is a link of that name.
func (h *Host) HasLink(name string) (bool, error) {
	_, there, err := h.rt.find(lookUp(name))
	return there, err
}

// gcLinks looks once at all links that do not have the name of a valid attachment's.
func (h *Host) gcLinks(c Config, network string, valid cni.Valid) error {
	kept := map[string]bool{}
	for _, o := range valid.Owners() {
		kept[HostName(o)] = true
	}
	links, err := h.rt.listBut(kept)
	if err != nil {
		return err
	}
	var failed error
	var nameless []link
	bridges := map[int]bool{}
	for _, l := range links {
		label, ok := Label(l.alias)
		switch {
		case l.alias == "" && isHostName(l.name) && l.master != 0:
			nameless = append(nameless, l)
		case ok && strings.HasPrefix(label, cni.NetworkLabel(network)) && !valid.KeepsLabel(label):
			bridges[l.master] = true
			_, err := h.rt.do(deleteIndex(l.index, l.name))
			failed = errors.Join(failed, err)
		}
	}
	failed = errors.Join(failed, h.reapNameless(c.Bridge, nameless))
	delete(bridges, 0)
	for index := range bridges {
		if c.Transient {
			failed = errors.Join(failed, h.reapIndex(index))
		}
	}
	return failed
}

// reapNameless deletes host veths of ours on the bridge that have no alias. Each is looked
// at again under the exclusive lock, while no ADD is between making one and naming it.
func (h *Host) reapNameless(bridge string, seen []link) error {
	if len(seen) == 0 {
		return nil
	}
	return whileIdle(func() error {
		on, there, err := h.rt.find(lookUp(bridge))
		if err != nil || !there {
			return err
		}
		var failed error
		for _, l := range seen {
			now, there, err := h.rt.find(lookUpIndex(l.index))
			if there && now.alias == "" && now.master == on.index {
				_, err = h.rt.do(deleteIndex(now.index, now.name))
			}
			failed = errors.Join(failed, err)
		}
		return failed
	})
}
