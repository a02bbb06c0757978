package bridge

import (
	"errors"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// GC deletes the links of the network's attachments that are not valid, and host veths on
// its bridge without an alias, whose ADD was killed before it set one. If the list is empty,
// or the configuration says so, it deletes an idle bridge, too. Without a list it deletes no
// link: a link whose container is gone is gone itself. It goes on after a failure and joins
// the errors.
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

// gcLinks looks at all links except those with the name of a valid attachment's host veth.
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
	var unnamed []link
	bridges := map[int]bool{}
	for _, l := range links {
		label, ok := Label(l.alias)
		switch {
		case l.alias == "" && isHostName(l.name) && l.master != 0:
			unnamed = append(unnamed, l)
		case ok && strings.HasPrefix(label, cni.NetworkLabel(network)) && !valid.KeepsLabel(label):
			bridges[l.master] = true
			_, err := h.rt.do(deleteIndex(l.index, l.name))
			failed = errors.Join(failed, err)
		}
	}
	failed = errors.Join(failed, h.reapUnnamed(c.Bridge, unnamed))
	delete(bridges, 0)
	for index := range bridges {
		if c.Transient {
			failed = errors.Join(failed, h.reapIndex(index))
		}
	}
	return failed
}

// reapUnnamed deletes those of the seen host veths that are on the bridge and have no alias,
// so that nothing names their owner. It looks at each again under the exclusive lock: no ADD
// is between creating a veth and setting its alias then.
func (h *Host) reapUnnamed(bridge string, seen []link) error {
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
