// Package runtimes puts real container runtimes on a throw-away host of
// test/host: containerd by ctr and by CRI, podman, and CRI-O's CNI client, with
// Trestle's plugins where they look for them. Nothing of it is left on the real
// host: no daemon, no mount, no control group.
package runtimes
