package bridge

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// GC deletes the links of the network's attachments that are not valid, and host
// ends on its bridge that an ADD was killed on before they had their owner's
// alias. It goes on after a failure and joins the errors. Without a list
// nothing is provably dead: a link whose container is gone is gone itself.
func (h *Host) GC(c Config, network string, valid cni.Valid) error {
	if !valid.Known {
		return errors.Join(h.reapUnguarded(), h.ReapBridge(c.Bridge))
	}
	links, err := h.nl.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list links: %w", err)
	}
	var failed error
	bridges := map[int]bool{}
	for _, link := range links {
		label, ok := ownerLabel(link.Attrs().Alias)
		if !ok || !strings.HasPrefix(label, cni.NetworkLabel(network)) || valid.KeepsLabel(label) {
			continue
		}
		bridges[link.Attrs().MasterIndex] = true
		failed = errors.Join(failed, h.unguard(link.Attrs().Name), h.deleteLink(link.Attrs().Name))
	}
	for index := range bridges {
		failed = errors.Join(failed, h.reapIndex(index))
	}
	return errors.Join(failed, h.reapNameless(c.Bridge), h.reapUnguarded(), h.ReapBridge(c.Bridge))
}

// reapNameless deletes host ends of ours that have no alias. Under the exclusive
// lock no ADD is between making one and naming it.
func (h *Host) reapNameless(bridge string) error {
	return h.whileIdle(func() error {
		ports, err := h.ports(bridge)
		for _, p := range ports {
			if p.Attrs().Alias == "" && isHostName(p.Attrs().Name) {
				err = errors.Join(err, h.deleteLink(p.Attrs().Name))
			}
		}
		return err
	})
}
