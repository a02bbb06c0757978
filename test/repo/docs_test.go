package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameTestsAndTargets: each test, make target and file of this repository
// that a page names is there, and so is each page and heading that a page links to.
func TestDocsNameTestsAndTargets(t *testing.T) {
	tests, targets, headings := allTests(t), allTargets(t), allHeadings(t)
	for page := range headings {
		text := readFile(t, page)
		for _, match := range regexp.MustCompile("`(Test[A-Za-z0-9]+)\\*?`").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(tests, "func "+match[1]) {
				t.Errorf("%s: no test begins with %s", page, match[1])
			}
		}
		for _, match := range regexp.MustCompile("`make ([a-z0-9-]+)[^`]*`").FindAllStringSubmatch(text, -1) {
			if !targets[match[1]] {
				t.Errorf("%s: make has no target %s", page, match[1])
			}
		}
		for _, match := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(text, -1) {
			target, heading, _ := strings.Cut(match[1], "#")
			target = filepath.Join(filepath.Dir(page), target)
			if strings.HasPrefix(match[1], "#") {
				target = page
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", page, match[1], err)
			} else if heading != "" && !headings[target][heading] {
				t.Errorf("%s: %s has no heading #%s", page, target, heading)
			}
		}
	}
}

// TestListsHaveNamesOfTheirOwn: no two different network lists are to be saved
// under one name, for whoever follows two pages.
func TestListsHaveNamesOfTheirOwn(t *testing.T) {
	files := readFile(t, "../../conflist/10-trestle.conflist")
	if page := readFile(t, "../../docs/containerd.md"); !strings.Contains(page, files) {
		t.Error("docs/containerd.md shows another list than conflist/10-trestle.conflist under that name")
	}
	for page := range allHeadings(t) {
		for _, name := range regexp.MustCompile(`net\.d/([a-z0-9-]+\.conflist) *<<`).FindAllStringSubmatch(readFile(t, page), -1) {
			if _, err := os.Stat("../../conflist/" + name[1]); err == nil {
				t.Errorf("%s writes a list of its own under the name of conflist/%s", page, name[1])
			}
		}
	}
}

// allTests is the text of all files with tests.
func allTests(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("grep", "-rhoE", "--include=*_test.go", "^func Test[A-Za-z0-9]+", "../..").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func allTargets(t *testing.T) map[string]bool {
	t.Helper()
	targets := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^([a-z0-9-]+):`).FindAllStringSubmatch(readFile(t, "../../Makefile"), -1) {
		targets[match[1]] = true
	}
	return targets
}

// allHeadings is the anchors of each page's headings, as GitHub makes them.
func allHeadings(t *testing.T) map[string]map[string]bool {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("got the pages %v, %v, want all", pages, err)
	}
	headings := map[string]map[string]bool{}
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md", "../../CHANGELOG.md") {
		headings[page] = map[string]bool{}
		for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(readFile(t, page), -1) {
			anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(match[1]), "")
			headings[page][strings.ReplaceAll(anchor, " ", "-")] = true
		}
	}
	return headings
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
