//go:build chromium

package picture

import (
	"context"
	_ "embed"
	"encoding/json"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browserJS uses the page as a person would, and writes the outcome into it.
//
//go:embed testdata/browser.js
var browserJS string

// outcome is what browserJS found.
type outcome struct {
	// Failed are the failures.
	Failed []string
	// Steps is the number of things that were checked.
	Steps int
}

// TestBrowser: in a real browser the pages can be moved, enlarged and searched, and show
// details; no text is wider than its box or overlaps another; nothing is loaded. `make test-html`
// runs it.
func TestBrowser(t *testing.T) {
	for name, snapshot := range samples() {
		page, err := Page(NewTopology(snapshot), snapshot.Time)
		if err != nil {
			t.Fatal(err)
		}
		tryPage(t, "topology-"+name, page)
	}
	page, err := reported().Page()
	if err != nil {
		t.Fatal(err)
	}
	tryPage(t, "report", page)
	page, err = Page(NewTopology(oddHost()), smallHost().Time)
	if err != nil {
		t.Fatal(err)
	}
	tryPage(t, "odd", page)
}

func tryPage(t *testing.T, name, page string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".html")
	page = strings.Replace(page, "</body>", "<script>/*<![CDATA[*/"+browserJS+"/*]]>*/</script></body>", 1)
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// no sandbox: tests run as root
	cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
		"--user-data-dir="+t.TempDir(), "--virtual-time-budget=10000", "--dump-dom", "file://"+file)
	dom, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: chromium: %v", name, err)
	}
	match := regexp.MustCompile(`<pre id="outcome">([^<]*)</pre>`).FindSubmatch(dom)
	if match == nil {
		t.Fatalf("%s: the page did not come to its end", name)
	}
	var got outcome
	if err := json.Unmarshal([]byte(html.UnescapeString(string(match[1]))), &got); err != nil {
		t.Fatal(err)
	}
	if got.Steps < 8 {
		t.Errorf("%s: only %d steps", name, got.Steps)
	}
	for _, failed := range got.Failed {
		t.Errorf("%s: %s", name, failed)
	}
}
