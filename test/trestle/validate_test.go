package trestle

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/validate"
	"github.com/trestle-cni/trestle/test/host"
)

// TestValidate: what runtimes read, or the files that are named; a line for each
// mistake, and an exit status that scripts can ask.
func TestValidate(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	good := `{"cniVersion": "1.0.0", "name": "good", "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}}]}`
	h.InstallNetwork("10-good.conflist", good)
	before := h.Dump()
	if output := run(t, h, "validate", "--lists", "/nowhere"); output.Code != 0 || !strings.Contains(output.Stderr, "no network list in /nowhere") {
		t.Errorf("got exit status %d: %q, want a word on the directory", output.Code, output.Stderr)
	}
	if got := must(t, h, "validate"); got != "1 file without a mistake\n" {
		t.Errorf("got %q", got)
	}
	if got := must(t, h, "validate", "--json"); got != "[]\n" {
		t.Errorf("got %q, want an empty list", got)
	}
	h.AssertUnchanged(before)
	h.InstallNetwork("20-bad.conflist", "{\n  \"cniVersion\": \"1.0.0\", \"name\": \"good\",\n  \"plugins\": [\n    {\"type\": \"tuning\", \"sysctls\": {}},\n    {\"type\": \"macvlan\"}\n  ]\n}")
	before = h.Dump()
	output := run(t, h, "validate")
	want := `/etc/cni/net.d/20-bad.conflist:2:34: name: "good" is also the name of /etc/cni/net.d/10-good.conflist, and runtimes use that one
/etc/cni/net.d/20-bad.conflist:4:24: plugins[0].sysctls: nobody reads this key; is it sysctl?
/etc/cni/net.d/20-bad.conflist:5:14: plugins[1].type: plugin "macvlan" is not in ` + h.Dirs().Trestle + "\n"
	if output.Stdout != want || output.Code != 3 {
		t.Errorf("got exit status %d and\n%swant 3 and\n%s", output.Code, output.Stdout, want)
	}
	output = run(t, h, "validate", "--json", "/etc/cni/net.d/20-bad.conflist")
	var found []validate.Problem
	if err := json.Unmarshal([]byte(output.Stdout), &found); err != nil || output.Code != 3 || len(found) != 2 || found[0].Path != "plugins[0].sysctls" || found[0].Line != 4 || found[0].Column != 24 {
		t.Errorf("got exit status %d, %+v, %v", output.Code, found, err)
	}
	h.AssertUnchanged(before)
	if output := run(t, h, "validate", "/etc/cni/net.d"); output.Stdout != want || output.Code != 3 {
		t.Errorf("a directory: got exit status %d and\n%swant the same as of its lists\n%s", output.Code, output.Stdout, want)
	}
	refused(t, h, []string{"/nowhere.conflist"}, "validate", "/nowhere.conflist")
	refused(t, h, []string{"no network list in /sys"}, "validate", "/sys")
}
