package trestle

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/picture"
)

// TestReport: the page has all that somebody far away asks for; masked it has no address,
// and is whole nevertheless.
func TestReport(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	awaitDead(t, h)
	before := h.Dump()
	file := filepath.Join(t.TempDir(), "r.html")
	read := func() string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		assertXML(t, string(data))
		return string(data)
	}
	addresses := []string{"10.22.0.2", "fd6c:4ae9:71d3:22::2", "192.0.2.2", "0a:58:0a:16:00:02"}
	common := []string{"shop/front", "8080-8081→80-81/tcp", "trestle0", "Kernel", "10-trestle.conflist", "ipMasq", "/run/netns/web"}
	if got := must(t, h, "report", file); got != file+"\n" {
		t.Errorf("got %q", got)
	}
	plain := read()
	if strings.Contains(plain, "<td> in /") || !strings.Contains(plain, "<td>trestle 2.0.0-dev in "+h.Dirs().Trestle+": bandwidth, bridge, ") {
		t.Error("not all plugins are in the report with their suite and version")
	}
	if !strings.Contains(plain, "trestle gc") || strings.Contains(plain, "not looked for") {
		t.Error("what doctor finds of the lost container is not in the report")
	}
	for _, want := range append(addresses, common...) {
		if !strings.Contains(plain, want) {
			t.Errorf("%q is not in the report", want)
		}
	}
	if got := answer[map[string][]string](t, h, "report", file, "--mask"); len(got["files"]) != 1 {
		t.Errorf("got %v", got)
	}
	if got := answer[picture.Report](t, h, "report", "-"); len(got.Ports) != 5 || len(got.Findings) == 0 || len(got.Topology.Segments) != 1 {
		t.Errorf("got %+v", got)
	}
	masked := read()
	for _, want := range append(common, "addresses are masked") {
		if !strings.Contains(masked, want) {
			t.Errorf("%q is not in the masked report", want)
		}
	}
	// whole addresses: the key is another each time, and of 10.0.0.0/8 one /16 in 256 stays what it is
	for _, secret := range append(addresses, "10.22.0.1", "192.0.2.1", "fd6c:4ae9:71d3:22::1") {
		pattern := regexp.MustCompile(`[^0-9a-f]` + regexp.QuoteMeta(secret) + `[^0-9a-f]`)
		if at := pattern.FindStringIndex(masked); at != nil {
			t.Errorf("%s is in the masked report: …%s…", secret, masked[max(at[0]-80, 0):at[1]])
		}
		if !pattern.MatchString(plain) {
			t.Errorf("%s is not in the plain report either", secret)
		}
	}
	h.AssertUnchanged(before)
	refused(t, h, []string{"FILE.html", "nothing is given"}, "report")
	refused(t, h, []string{"FILE", "/none"}, "report", "/none/r.html")
	refused(t, h, []string{"--maks"}, "report", "x.html", "--maks")
}
