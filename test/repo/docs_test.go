package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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

// TestMessagesOfTroubleshooting: what docs/troubleshooting.md says that Trestle says, it says.
// "…" stands for what differs, so each piece between is in one of our texts as it is there.
func TestMessagesOfTroubleshooting(t *testing.T) {
	_, section, found := strings.Cut(readFile(t, "../../docs/troubleshooting.md"), "## What Trestle says\n")
	section, _, _ = strings.Cut(section, "\n## ")
	said := allTexts(t)
	messages := regexp.MustCompile("(?m)^\\| `([^`]*)`").FindAllStringSubmatch(section, -1)
	if !found || len(messages) < 20 {
		t.Fatalf("got %d messages, want all that the page has", len(messages))
	}
	for _, message := range messages {
		for piece := range strings.SplitSeq(message[1], "…") {
			if piece = strings.TrimSpace(piece); len(piece) > 3 && !strings.Contains(said, piece) {
				t.Errorf("docs/troubleshooting.md: `%s`: nothing in the code says %q", message[1], piece)
			}
		}
	}
}

// allTexts are the constant strings of our programs, a line each, with … for their verbs.
func allTexts(t *testing.T) string {
	t.Helper()
	var texts strings.Builder
	for _, dir := range []string{"../../cmd", "../../pkg", "../../plugins"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				expr, isExpr := n.(ast.Expr)
				if text, ok := constant(expr); isExpr && ok {
					texts.WriteString(verb.ReplaceAllString(strings.ReplaceAll(text, "%q", `"…"`), "…") + "\n")
					return false
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts.String()
}

var verb = regexp.MustCompile(`%[-+# 0]*(\[\d+\])?\d*[a-zA-Z]`)

// constant is a text that stands in the code, in one piece or in several.
func constant(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		left, isLeft := constant(e.X)
		right, isRight := constant(e.Y)
		return left + right, isLeft && isRight
	}
	return "", false
}
