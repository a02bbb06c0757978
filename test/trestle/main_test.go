// Package trestle runs the command line, as it was built, on a real kernel.
package trestle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// run runs trestle on the host, which has its plugins in the usual place.
func run(t *testing.T, h *host.Host, args ...string) host.Output {
	t.Helper()
	output, err := h.Run(host.Command{
		Args: append([]string{filepath.Join(h.Dirs().Trestle, "trestle")}, args...),
		Env:  []string{"CNI_PATH=" + h.Dirs().Trestle},
	})
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// must is run of a command that succeeds; what it answered.
func must(t *testing.T, h *host.Host, args ...string) string {
	t.Helper()
	output := run(t, h, args...)
	if output.Code != 0 {
		t.Fatalf("trestle %s: exit status %d: %s%s", strings.Join(args, " "), output.Code, output.Stdout, output.Stderr)
	}
	return output.Stdout
}

// answer is the JSON that the command answers with.
func answer[T any](t *testing.T, h *host.Host, args ...string) T {
	t.Helper()
	var v T
	out := must(t, h, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("trestle %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

// refused runs a command with bad input: its exit status is 2, it says all of words, and
// nothing on the host has changed.
func refused(t *testing.T, h *host.Host, words []string, args ...string) {
	t.Helper()
	before := h.Dump()
	output := run(t, h, args...)
	if output.Code != 2 || output.Stdout != "" {
		t.Errorf("trestle %s: got exit status %d and %q, want 2 and nothing; it said %s", strings.Join(args, " "), output.Code, output.Stdout, output.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(output.Stderr, word) {
			t.Errorf("trestle %s: got %q, want it to name %q", strings.Join(args, " "), output.Stderr, word)
		}
	}
	h.AssertUnchanged(before)
}

// decode reads JSON.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
