package trestle

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestOtherReleases: a command that is older than the plugins, or newer, says so and changes
// nothing, be it that the rules tell or the records.
func TestOtherReleases(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	old := filepath.Join(t.TempDir(), "old")
	writeOlderPlugins(t, h, old)
	for _, test := range []struct{ name, edit, plugins, want string }{
		{"newer rules", `sed -i 's/^ports [0-9]*$/ports 99/' /run/trestle/nft/inet-trestle`, h.Dirs().Trestle, "older than the plugins that made the rules"},
		{"rules of a part that is not known", `echo 'nonesuch 1' >>/run/trestle/nft/inet-trestle`, h.Dirs().Trestle, "older than the plugins"},
		{"newer records", `sed -i 's/"Version":1/"Version":99/; s/,"crc32":[0-9]*//' /run/trestle/translations/lab/*`, h.Dirs().Trestle, "records in /run/trestle (version 99)"},
		{"older rules", `sed -i 's/^ports [0-9]*$/ports 1/' /run/trestle/nft/inet-trestle`, old, "is of release 1.9"},
	} {
		h.MustRun("sh", "-ec", "rm -rf /run/kept; cp -a /run/trestle /run/kept; "+test.edit)
		// Something for restore, and a doctor, to put right.
		h.MustRun("nft", "flush", "chain", "inet", "trestle", "postrouting")
		before := h.Dump()
		for _, command := range []string{"restore", "gc", "leave", "doctor --fix", "network rm --force lab", "ip repair", "ip release --force 10.40.0.2"} {
			output := run(t, h, append(strings.Fields(command), "--plugins", test.plugins)...)
			if output.Code != 1 || !strings.Contains(output.Stderr, test.want) || !strings.Contains(output.Stderr, "Nothing was changed") {
				t.Errorf("%s: %s: got exit status %d: %q, want 1: %q", test.name, command, output.Code, output.Stderr, test.want)
			}
			h.AssertUnchanged(before)
		}
		h.MustRun("sh", "-ec", "rm -r /run/trestle; mv /run/kept /run/trestle")
		must(t, h, "restore")
	}
	// Older rules that nobody makes any more are brought up to date.
	h.MustRun("mkdir", "/run/trestle/nft/of-somebody-else")
	h.MustRun("sed", "-i", `s/^ports [0-9]*$/ports 1/`, "/run/trestle/nft/inet-trestle")
	h.MustRun("nft", "flush", "chain", "inet", "trestle", "host_ports")
	if got := must(t, h, "restore"); !strings.Contains(got, "restored") {
		t.Errorf("got %q, want the rules restored", got)
	}
}

// writeOlderPlugins writes programs that say they are of another release. All of them are
// one file.
func writeOlderPlugins(t *testing.T, h *host.Host, to string) {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(h.Dirs().Trestle, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	says := must(t, h, "--version")
	release := strings.TrimSpace(says[strings.LastIndex(strings.TrimSpace(says), " ")+1:])
	const other = "1.9.9-anything-else-than-a-release-of-ours-that-is-long"
	if len(release) > len(other) {
		t.Fatalf("release %q is too long for this test", release)
	}
	older := bytes.ReplaceAll(program, []byte(release), []byte(other[:len(release)]))
	h.WriteProgram(filepath.Join(to, "bridge"), string(older))
}
