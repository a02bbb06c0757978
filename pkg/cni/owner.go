// Package cni is the protocol edge: it turns a runtime's call (environment and
// standard input, CNI spec 0.1.0 to 1.1.0) into a Request, and a plugin's
// answer or error into what that runtime understands. It imports nothing of ours.
//
// A plugin is a Plugin, served by Main. Its functions get a Request, decode their keys
// of the configuration by Request.Decode, undo what they did by an Undo if they fail, and
// return errors made by ConfigErrorf and its siblings, which choose the spec's code.
// Everything that they create carries Request.Owner. Start at Plugin and Main.
//
// To debug: execute the plugin as a runtime does, CNI_COMMAND=… and the configuration on
// standard input; without CNI_COMMAND it says which build it is.
package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Owner names one attachment: the interface IfName of a container on a network.
// Everything that an ADD creates carries its Owner, so that DEL and GC find it
// again with no netns, no prevResult and not even the configuration of the ADD.
type Owner struct {
	Network     string
	ContainerID string
	IfName      string
}

// maxLabelPart keeps a label of two shortened parts and an interface name below
// 240 bytes: an ifalias holds 255 (IFALIASZ, linux/if.h), an nftables comment
// 253 (NFT_USERDATA_MAXLEN less its TLV header and the final NUL).
const maxLabelPart = 104

// String is the owner as people and kernel objects carry it:
// "network/containerID/ifname". Parts that are too long for a kernel object are
// cut and end in "~" and 16 hex digits of their hash; two owners never share a
// label but by a collision of that hash.
func (o Owner) String() string {
	return NetworkLabel(o.Network) + shorten(o.ContainerID) + "/" + o.IfName
}

// NetworkLabel is the beginning, up to and including the first "/", of the
// label of every owner in network.
func NetworkLabel(network string) string { return shorten(network) + "/" }

// Hash is n hex digits (at most 64) that differ from owner to owner.
// It names what must have a name of its own, like a host veth or a record's file.
func (o Owner) Hash(n int) string {
	sum := sha256.Sum256([]byte(o.Network + "/" + o.ContainerID + "/" + o.IfName))
	return hex.EncodeToString(sum[:])[:n]
}

func shorten(part string) string {
	if len(part) <= maxLabelPart {
		return part
	}
	sum := sha256.Sum256([]byte(part))
	return part[:maxLabelPart-17] + "~" + hex.EncodeToString(sum[:8])
}

// ParseOwner reads a label made by String. The parts of a shortened label are
// the shortened ones.
func ParseOwner(label string) (Owner, bool) {
	parts := strings.Split(label, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return Owner{}, false
	}
	return Owner{Network: parts[0], ContainerID: parts[1], IfName: parts[2]}, true
}
