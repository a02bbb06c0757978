// Package cni implements the CNI protocol (spec 0.1.0 to 1.1.0): it turns a runtime's call
// (environment and standard input) into a Request, and a plugin's result or error into an
// answer in the runtime's version. It imports nothing of ours.
//
// A caller describes its plugin as a Plugin and serves it by Main. The Plugin's functions
// get a Request, decode their keys of the configuration by Request.Decode, undo by an Undo
// what a failed ADD has done, and return errors made by ConfigErrorf and its siblings, which
// choose the spec's code. Everything that they create carries Request.Owner. Start at Plugin
// and Main.
//
// To debug: run the plugin as a runtime does, with CNI_COMMAND=… and the configuration on
// standard input; without CNI_COMMAND it prints its version.
package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Owner names one attachment: the interface IfName of a container on a network.
// Everything that an ADD creates carries its Owner, so that DEL and GC find it
// without a namespace, prevResult or the configuration of the ADD.
type Owner struct {
	Network     string
	ContainerID string
	IfName      string
}

// maxLabelPart keeps a label, with two shortened parts and an interface name, below
// 240 bytes: an ifalias has room for 255 (IFALIASZ, linux/if.h), an nftables comment for
// 253 (NFT_USERDATA_MAXLEN less its TLV header and the final NUL).
const maxLabelPart = 104

// String is the owner's label, "network/containerID/ifname", for people and for kernel
// objects. A network or container ID that is too long for a kernel object is cut and ends
// in "~" and 16 hex digits of its hash; so two owners have the same label only if these
// hashes collide.
func (o Owner) String() string {
	return NetworkLabel(o.Network) + shorten(o.ContainerID) + "/" + o.IfName
}

// NetworkLabel is what the label of every owner in the network begins with, up to and
// including the first "/".
func NetworkLabel(network string) string { return shorten(network) + "/" }

// Hash is the first n hex digits (at most 64) of the owner's SHA-256, for names that must
// be unique to the owner, like those of a host veth or a record's file.
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

// ParseOwner reads a label made by String. Of a shortened label, the Owner has the shortened
// names, so it is not the owner itself.
func ParseOwner(label string) (Owner, bool) {
	parts := strings.Split(label, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return Owner{}, false
	}
	return Owner{Network: parts[0], ContainerID: parts[1], IfName: parts[2]}, true
}
