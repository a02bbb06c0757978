package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// TestTables: every variant of every table works, and the page has them. Times are not
// looked at.
func TestTables(t *testing.T) {
	tiny := size{
		rounds: 1, backends: backends, attachments: []int{0, 3}, peers: 1, leases: []int{0, 9},
		mappings: 10, crowds: []int{3}, peerCrowd: 3, stream: 1 << 20, hosts: []int{3}, agents: 1, idle: time.Second, packets: 100, counted: 3,
	}
	page := newPage("tiny")
	for _, c := range chapters() {
		c.run(t, tiny, page, "")
	}
	counted, err := counts(t, tiny.counted)
	if err != nil {
		t.Fatal(err)
	}
	page.counts(counted)
	dir := t.TempDir()
	if err := page.write(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`\]\((benchmarks/[^)]*)\)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(dir, match[1])); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Count(string(text), "\n### "); got != len(page.charts) || got < 10 {
		t.Errorf("got %d tables and %d pictures:\n%s", got, len(page.charts), text)
	}
}
