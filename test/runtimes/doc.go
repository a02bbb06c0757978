// Package runtimes puts real container runtimes — containerd by ctr and by CRI,
// podman — on a throw-away host of test/host, with Trestle's plugins where they
// look for them. Nothing of it is left on the real host: no daemon, no mount, no
// control group.
package runtimes
