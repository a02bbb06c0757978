package inventory

import "github.com/trestle-cni/trestle/pkg/cni"

// Label is the attachment's owner as kernel objects carry it: "network/container/ifname".
func (a Attachment) Label() string {
	return cni.Owner{Network: a.Network, ContainerID: a.Container, IfName: a.IfName}.String()
}
