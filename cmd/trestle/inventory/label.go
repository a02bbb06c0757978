package inventory

import "github.com/trestle-cni/trestle/pkg/cni"

// Label is the attachment as kernel objects name it: "network/container/ifname".
func (a Attachment) Label() string {
	return cni.Owner{Network: a.Network, ContainerID: a.Container, IfName: a.IfName}.String()
}
