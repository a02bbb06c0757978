package trestle

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/picture"
	"github.com/trestle-cni/trestle/test/host"
)

// TestTopology: what the kernel has is where the drawing puts it: the uplink outside, a
// VLAN on it, the bridge with a veth for each container, and veths of others with their
// peers, here and in other namespaces. Nothing changes by looking.
func TestTopology(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	h.MustRun("ip", "netns", "add", "elsewhere")
	h.MustRun("ip", "link", "add", "other0", "type", "veth", "peer", "name", "inner", "netns", "elsewhere")
	h.MustRun("ip", "link", "set", "other0", "master", "trestle0")
	h.MustRun("ip", "link", "add", "here0", "type", "veth", "peer", "name", "here1")
	before := h.Dump()
	got := answer[picture.Topology](t, h, "topology")
	if len(got.Uplinks) != 1 || got.Uplinks[0].Name != host.Uplink || len(got.DefaultRoutes) == 0 || !slices.Contains(got.Uplinks[0].Addresses, host.HostIPv4) {
		t.Errorf("got uplinks %+v, routes %+v", got.Uplinks, got.DefaultRoutes)
	}
	if len(got.Segments) != 1 || got.Segments[0].Name != "trestle0" || len(got.Segments[0].Members) != 2 || len(got.Segments[0].Ports) != 1 {
		t.Fatalf("got %+v", got.Segments)
	}
	if port := got.Segments[0].Ports[0]; port.Name != "other0" || !strings.HasPrefix(port.Peer, "index ") || !strings.HasSuffix(port.Peer, " in elsewhere") {
		t.Errorf("got %+v, want other0 with a peer in namespace elsewhere", port)
	}
	peers := map[string]string{}
	for _, i := range got.Others {
		peers[i.Name] = i.Peer
	}
	if peers["here0"] != "here1" || peers["here1"] != "here0" {
		t.Errorf("got %v, want here0 and here1 as each other's peers", peers)
	}
	tree := must(t, h, "topology")
	for _, want := range []string{"host  1 network, 2 containers", ", 3 published ports\n", host.Uplink, "outside via ", "shop/front", "10.22.0.2", "8080-8081→80-81/tcp", "no link ─ eth0", "other0  veth to index", "here0 (veth to here1)"} {
		if !strings.Contains(tree, want) {
			t.Errorf("got\n%swant %q in it", tree, want)
		}
	}
	h.AssertUnchanged(before)
}

// TestTopologyFiles: each kind of file is what it says, and replaces what stood there; a
// file that cannot be is refused before anything is written.
func TestTopologyFiles(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	dir := t.TempDir()
	svg, html := dir+"/t.svg", dir+"/t.html"
	h.MustRun("sh", "-c", "echo before >"+svg)
	if got := must(t, h, "topology", "--svg", svg, "--html", html); got != svg+"\n"+html+"\n" {
		t.Errorf("got %q", got)
	}
	if got := h.MustRun("ls", "-A", dir); got != "t.html\nt.svg\n" {
		t.Errorf("got files %q", got)
	}
	for _, file := range []string{svg, html} {
		text := h.MustRun("cat", file)
		assertXML(t, text)
		for _, want := range []string{"shop/front", "fd6c:4ae9:71d3:22::2", "192.0.2.2:5353→53/udp", "prerouting of inet trestle"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is missing", file, want)
			}
		}
	}
	if dot := must(t, h, "topology", "--dot", "-"); !strings.HasPrefix(dot, "graph host {\n") || !strings.Contains(dot, "shop/front") || !strings.Contains(dot, "prerouting of inet trestle") {
		t.Errorf("got %q", dot)
	}
	refused(t, h, []string{"nowhere", "trestle"}, "topology", "nowhere", "--svg", dir+"/x.svg")
	refused(t, h, []string{"--svg", "/none/such"}, "topology", "--svg", "/none/such/x.svg")
	refused(t, h, []string{"--html", dir, "directory"}, "topology", "--html", dir)
	refused(t, h, []string{"--svg", "standard output", "JSON"}, "topology", "--svg", "-", "--json")
	refused(t, h, []string{"--dot", "standard output", "--svg"}, "topology", "--svg", "-", "--dot", "-")
}

func assertXML(t *testing.T, text string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
}

// TestTopologyVLAN: a port's VLANs stand at the container, and the bridge says that it
// looks at them.
func TestTopologyVLAN(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	list := `{"cniVersion": "1.0.0", "name": "tagged", "plugins": [{"type": "bridge", "bridge": "br-tagged", "vlan": 7,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}}]}`
	h.InstallNetwork("90-tagged.conflist", list)
	if _, err := h.Network(list).Add(h.Container("c1").Attachment()); err != nil {
		t.Fatal(err)
	}
	h.MustRun("ip", "link", "add", "trunk0", "type", "veth", "peer", "name", "trunk1")
	h.MustRun("ip", "link", "set", "trunk0", "master", "br-tagged")
	h.MustRun("bridge", "vlan", "add", "dev", "trunk0", "vid", "10-12")
	got := answer[picture.Topology](t, h, "topology")
	if len(got.Segments) != 1 || !got.Segments[0].VLANFiltering || len(got.Segments[0].Members) != 1 || len(got.Segments[0].Ports) != 1 {
		t.Fatalf("got %+v", got.Segments)
	}
	if got := got.Segments[0].Members[0].PortVLANs; got != "VLAN 7" {
		t.Errorf("got %q, want VLAN 7", got)
	}
	if got := got.Segments[0].Ports[0].PortVLANs; got != "VLAN 1, tagged 10-12" {
		t.Errorf("got %q, want VLAN 1, tagged 10-12", got)
	}
	if tree := must(t, h, "topology"); !strings.Contains(tree, "c1 VLAN 7") {
		t.Errorf("got\n%s", tree)
	}
}
