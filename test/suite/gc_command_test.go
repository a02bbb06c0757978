package suite

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/test/host"
)

// tookBack is a line of trestle gc that says what went.
var tookBack = regexp.MustCompile(`(?m)^  freed trestle/.*/eth0: 10\.22\.0\.3, fd6c:4ae9:71d3:22::3\n`)

// TestGCCommand: trestle gc takes back the addresses of a container whose network
// namespace is gone, in a list of a version that has no GC. A living container
// keeps all that it has; plugins of other suites are not asked.
func TestGCCommand(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	list, err := conflist.Files.ReadFile(conflist.Default)
	if err != nil {
		t.Fatal(err)
	}
	h.InstallNetwork("10-trestle.conflist", string(list))
	h.InstallNetwork("99-other.conflist", `{"cniVersion": "1.0.0", "name": "other", "plugins": [
		{"type": "bridge", "bridge": "br9", "ipam": {"type": "strange"}}, {"type": "strange"}]}`)
	plugins := t.TempDir()
	asked := filepath.Join(plugins, "asked")
	h.MustRun("sh", "-c", "printf '#!/bin/sh\\ntouch "+asked+"\\n' >"+plugins+"/strange; chmod +x "+plugins+"/strange")
	living, lost := h.Container("living"), h.Container("lost")
	for _, c := range []*host.Container{living, lost} {
		if output := h.Cnitool("add", "trestle", c.NetNS); output.Code != 0 {
			t.Fatalf("add: exit status %d: %s%s", output.Code, output.Stdout, output.Stderr)
		}
	}
	leases := func() string {
		return h.MustRun("sh", "-c", "cd /var/lib/cni/networks/trestle; ls | grep -e ^10 -e ^fd")
	}
	if got, want := leases(), "10.22.0.2\n10.22.0.3\nfd6c:4ae9:71d3:22::2\nfd6c:4ae9:71d3:22::3\n"; got != want {
		t.Fatalf("got leases %q, want %q", got, want)
	}
	host.NeedProofOfDeath(t)
	lost.Remove()

	// The kernel lets go of a namespace a moment after its last user has.
	want := "10.22.0.2\nfd6c:4ae9:71d3:22::2\n"
	host.Await(t, "the lost one's addresses are taken back, and no other", func() bool {
		got := h.MustRun(h.Dirs().Trestle+"/trestle", "gc", "--plugins", h.Dirs().Trestle+","+plugins)
		got = tookBack.ReplaceAllString(got, "") // in the last round
		if want := "trestle (/etc/cni/net.d/10-trestle.conflist): bridge, portmap\nother (/etc/cni/net.d/99-other.conflist): bridge\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		return leases() == want
	})
	if output := h.Cnitool("check", "trestle", living.NetNS); output.Code != 0 {
		t.Errorf("check of the living container: %s%s", output.Stdout, output.Stderr)
	}
	if files := h.MustRun("ls", plugins); strings.Contains(files, "asked") {
		t.Errorf("a plugin of another suite was asked to collect garbage without a list of what is alive")
	}
}

// TestGCCommandGoesOn: a list that cannot be read is an error, and does not keep
// the others from being looked at; nor does another suite's plugin in our place.
func TestGCCommandGoesOn(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.InstallNetwork("10-broken.conflist", `{"name": `)
	h.InstallNetwork("20-n.conflist", `{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0"}]}`)
	for dir, want := range map[string]string{
		h.Dirs().Trestle:   "n (/etc/cni/net.d/20-n.conflist): bridge\n",
		h.Dirs().Reference: "n (/etc/cni/net.d/20-n.conflist): none of Trestle's plugins\n",
	} {
		output, err := h.Run(host.Command{Args: []string{h.Dirs().Trestle + "/trestle", "gc", "--plugins", dir}})
		if err != nil || output.Code != 1 || !strings.Contains(output.Stderr, "10-broken.conflist") || output.Stdout != want {
			t.Errorf("%s: got %v, exit status %d, %q, %q; want %q and an error that names 10-broken.conflist", dir, err, output.Code, output.Stdout, output.Stderr, want)
		}
	}
}
