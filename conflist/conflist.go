// Package conflist knows the network lists that come with Trestle. They stand
// beside it as files, ready to be copied to /etc/cni/net.d, and are embedded for
// the command line.
//
// The lists say cniVersion 1.0.0: Debian 12's containerd 1.6 and podman 4 run the
// plugins of a 1.1.0 list and then cannot read their results.
package conflist

import "embed"

// Default is the name of the file with the network that most hosts want: a
// bridge with IPv4 and IPv6 behind masquerade, and host ports.
const Default = "10-trestle.conflist"

// Fast is the name of the file with the like of it in which the bridge plugin maps
// the host ports itself: one process for each ADD and DEL rather than two. Other
// suites' bridge plugins do not know that capability, and would map nothing.
//
// The name sorts after Default's: containerd and CRI-O take the first list of
// /etc/cni/net.d, and where both have been copied there that is Default.
const Fast = "20-trestle-fast.conflist"

// Files are the lists, by the names that they have in /etc/cni/net.d.
//
//go:embed *.conflist
var Files embed.FS
