package programs

import (
	"os"
	"path/filepath"
	"testing"
)

// TestIdentifyAll: programs are known that no runtime would execute, since another directory has
// one with their name; and what a person reads of each.
func TestIdentifyAll(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	script := []byte("#!/bin/sh\n")
	for _, path := range []string{filepath.Join(first, "bridge"), filepath.Join(second, "bridge"), filepath.Join(second, "macvlan")} {
		if err := os.WriteFile(path, script, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Read([]string{first, second})
	if err != nil || len(all) != 3 {
		t.Fatalf("got %v, %v, want three programs", all, err)
	}
	all.IdentifyAll(t.Context())
	for _, p := range all {
		if p.Label() != "other" {
			t.Errorf("%s: got %q, want other", p.Path, p.Label())
		}
	}
	if got, want := (Program{Suite: Trestle, Version: "2.3.4"}).Label(), "trestle 2.3.4"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (Program{Suite: Reference, Version: "unknown"}).Label(), "reference, version unknown"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestVersionIn: the version is in whichever line has the form of a plugin's, and in no other.
func TestVersionIn(t *testing.T) {
	const protocol = "CNI protocol versions supported: 0.1.0, 1.1.0\n"
	for name, test := range map[string]struct{ output, want string }{
		"ours":                  {"CNI bridge plugin v2.0.0-dev\n" + protocol, "2.0.0-dev"},
		"the reference's":       {"CNI host-local plugin v1.9.1\n" + protocol, "1.9.1"},
		"before 0.9":            {"CNI bridge plugin version v0.8.7\n", "0.8.7"},
		"none was set":          {"CNI bridge plugin version unknown\n" + protocol, "unknown"},
		"built for coverage":    {"warning: GOCOVERDIR not set, no coverage data emitted\nCNI bridge plugin v2.0.0\n" + protocol, "2.0.0"},
		"junk before":           {"\x00\xff\nI am a CNI bridge plugin v9.9.9\nCNI plugin v8\nCNI bridge plugin is out of date\n\nCNI bridge plugin v2.0.0\n", "2.0.0"},
		"no end of line":        {"CNI bridge plugin v2.0.0", "2.0.0"},
		"lines that end in CR":  {"junk\r\nCNI bridge plugin v2.0.0\r\n", "2.0.0"},
		"two of them":           {"CNI bridge plugin v2.0.0\nCNI bridge plugin v3.0.0\n", "2.0.0"},
		"a sentence about it":   {"CNI bridge plugin v2.0.0 will not run\n", ""},
		"only the protocol":     {protocol, ""},
		"nothing":               {"", ""},
		"a name and no version": {"CNI bridge plugin v\n", ""},
	} {
		if got := versionIn([]byte(test.output)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
