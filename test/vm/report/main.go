// Command report reads what tests said in a virtual machine (-test.v), and writes the
// kernel's part of docs/kernels.md: what passed, and what was skipped or failed, and why.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	kernel := flag.String("kernel", "", "the kernel as it is asked for: 6.1")
	release := flag.String("release", "", "the kernel as it calls itself")
	page := flag.String("page", "docs/kernels.md", "the page, whose part between the kernel's marks is written anew")
	flag.Parse()
	if err := run(*kernel, *release, *page); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kernel, release, page string) error {
	found, err := read(os.Stdin)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	said := strings.ReplaceAll(found.describe(release), root+"/", "") // where the checkout is says nothing to others
	written, err := replace(string(text), kernel, said)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	if err := os.WriteFile(page, []byte(written), 0o644); err != nil {
		return err
	}
	fmt.Printf("%s: %d passed, %d skipped, %d failed\n", release, len(found.passed), len(found.skipped), len(found.failed))
	if len(found.failed) > 0 || len(found.passed) == 0 {
		return fmt.Errorf("failed: %s", strings.Join(found.failed, ", "))
	}
	return nil
}

// results are of top-level tests, by name; skipped ones, and subtests, with the reason.
type results struct {
	passed, skipped, failed []string
}

var (
	verdict = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+)`)
	turn    = regexp.MustCompile(`^=== (RUN|CONT|NAME) +(\S+)`)
	reason  = regexp.MustCompile(`^ +\S+\.go:\d+: (.*)`)
)

// read goes by the lines of -test.v: whose turn it is, and what it said last, which of one
// that is skipped is the reason.
func read(from io.Reader) (results, error) {
	var r results
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<20)
	open, said := map[string]bool{}, map[string]string{}
	current := ""
	for lines.Scan() {
		line := lines.Text()
		if match := turn.FindStringSubmatch(line); match != nil {
			current = match[2]
			open[current] = !strings.Contains(current, "/")
		} else if match := reason.FindStringSubmatch(line); match != nil {
			said[current] = match[1]
		} else if match := verdict.FindStringSubmatch(line); match != nil {
			top, name := match[1] == "", match[3]
			delete(open, name)
			switch {
			case match[2] == "SKIP":
				r.skipped = append(r.skipped, name+": "+said[name])
			case top && match[2] == "PASS":
				r.passed = append(r.passed, name)
			case top:
				r.failed = append(r.failed, name+": "+said[name])
			}
		}
	}
	for name, isTop := range open {
		if isTop {
			r.failed = append(r.failed, name+": did not end")
		}
	}
	slices.Sort(r.failed)
	return r, lines.Err()
}

func (r results) describe(release string) string {
	text := fmt.Sprintf("%s: %d tests passed: %s", release, len(r.passed), strings.Join(r.passed, ", "))
	for _, part := range []struct {
		what string
		all  []string
	}{{"skipped, and why", r.skipped}, {"failed", r.failed}} {
		if len(part.all) > 0 {
			text += fmt.Sprintf("\n\n%s:\n", part.what)
			for _, one := range part.all {
				text += "- " + one + "\n"
			}
		}
	}
	return strings.TrimSpace(text)
}

// replace puts the text between the kernel's marks.
func replace(page, kernel, text string) (string, error) {
	begin, end := fmt.Sprintf("<!-- %s -->\n", kernel), fmt.Sprintf("\n<!-- end of %s -->", kernel)
	before, rest, ok := strings.Cut(page, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return "", fmt.Errorf("has no marks of kernel %s", kernel)
	}
	return before + begin + text + end + after, nil
}
