package trestle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport: the page has all that somebody far away asks for; masked it has no address,
// and is whole nevertheless.
func TestReport(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	await(t, "the lost container is dead", func() bool { return strings.Contains(must(t, h, "ls"), "dead") })
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
	masked := read()
	for _, want := range append(common, "addresses are masked") {
		if !strings.Contains(masked, want) {
			t.Errorf("%q is not in the masked report", want)
		}
	}
	for _, secret := range append(addresses, "10.22.", "192.0.2.", "fd6c:4ae9") {
		if strings.Contains(masked, secret) {
			t.Errorf("%q is in the masked report", secret)
		}
	}
	h.AssertUnchanged(before)
	refused(t, h, []string{"accepts 1 arg"}, "report")
	refused(t, h, []string{"FILE", "/none"}, "report", "/none/r.html")
	refused(t, h, []string{"--maks"}, "report", "x.html", "--maks")
}
