// Command report reads what tests said in virtual machines (-test.v), and writes the
// kernel's part of docs/kernels.md: how many passed, by package, and what was skipped, or
// failed, or was not reached, and why.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	kernel := flag.String("kernel", "", "the kernel as it is asked for: 6.1")
	release := flag.String("release", "", "the kernel as it calls itself")
	listed := flag.String("listed", "", "a file of the tests that were to run: a package and a test on each line")
	page := flag.String("page", "docs/kernels.md", "the page, whose part between the kernel's marks is rewritten")
	flag.Parse()
	if err := run(*kernel, *release, *listed, *page); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kernel, release, listed, page string) error {
	found := results{}
	list, err := os.ReadFile(listed)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		if name, test, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found.list(name, test)
		}
	}
	if err := found.read(os.Stdin); err != nil {
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
	count := found.count("")
	fmt.Printf("%s: %d passed, %d skipped, %d failed, %d not reached\n", release, count[passed], count[skipped], count[failed], count[missing])
	if count[failed]+count[missing] > 0 || count[passed] == 0 {
		return fmt.Errorf("%s: some failed, or were not reached: see %s", release, page)
	}
	return nil
}

// verdict is what became of a test.
type verdict int

const (
	missing verdict = iota // of those that were to run: not begun, or not done
	passed
	skipped
	failed
)

// outcome is a test's, and the reason of a skip or a failure.
type outcome struct {
	verdict verdict
	reason  string
}

// results are those of each package's tests, by name; of subtests those that were skipped.
type results map[string]map[string]outcome

func (r results) list(name, test string) {
	if r[name] == nil {
		r[name] = map[string]outcome{}
	}
	if _, ok := r[name][test]; !ok {
		r[name][test] = outcome{}
	}
}

var (
	packageLine = regexp.MustCompile(`^== (\S+/\S+)`)
	verdictLine = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+)`)
	turnLine    = regexp.MustCompile(`^=== (RUN|CONT|NAME) +(\S+)`)
	reasonLine  = regexp.MustCompile(`^ +\S+\.go:\d+: (.*)`)
)

// read goes by the lines of -test.v: whose turn it is, and what it said last, which of one
// that is skipped is the reason. What a later run says of a test counts.
func (r results) read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<20)
	said := map[string]string{}
	name, current := "", ""
	for lines.Scan() {
		line := lines.Text()
		if match := packageLine.FindStringSubmatch(line); match != nil {
			name, said = match[1], map[string]string{}
		} else if match := turnLine.FindStringSubmatch(line); match != nil {
			if current = match[2]; match[1] == "RUN" {
				r.begin(name, current)
			}
		} else if match := reasonLine.FindStringSubmatch(line); match != nil {
			said[current] = match[1]
		} else if match := verdictLine.FindStringSubmatch(line); match != nil {
			r.end(name, match[3], map[string]verdict{"PASS": passed, "SKIP": skipped, "FAIL": failed}[match[2]], said[match[3]])
		}
	}
	return lines.Err()
}

// begin forgets what an earlier run said of a test and its subtests.
func (r results) begin(name, test string) {
	r.list(name, test)
	if strings.Contains(test, "/") {
		delete(r[name], test)
		return
	}
	r[name][test] = outcome{missing, "begun, and not done when its machine's time was over"}
}

func (r results) end(name, test string, v verdict, reason string) {
	if top := !strings.Contains(test, "/"); top || v == skipped {
		r.list(name, test)
		r[name][test] = outcome{v, reason}
	}
}

// count is that of top-level tests of a package, or of all.
func (r results) count(name string) map[verdict]int {
	counts := map[verdict]int{}
	for in, tests := range r {
		for test, o := range tests {
			if (name == "" || in == name) && !strings.Contains(test, "/") {
				counts[o.verdict]++
			}
		}
	}
	return counts
}

func (r results) describe(release string) string {
	text := fmt.Sprintf("%s:\n\n| package | passed | skipped | failed | not reached |\n|---|---|---|---|---|\n", release)
	row := func(title string, c map[verdict]int) {
		text += fmt.Sprintf("| %s | %d | %d | %d | %d |\n", title, c[passed], c[skipped], c[failed], c[missing])
	}
	for _, name := range slices.Sorted(maps.Keys(r)) {
		row(name, r.count(name))
	}
	row("all", r.count(""))
	for _, part := range []struct {
		what    string
		verdict verdict
	}{{"Skipped, and why", skipped}, {"Failed", failed}, {"Not reached", missing}} {
		if lines := r.byReason(part.verdict); len(lines) > 0 {
			text += fmt.Sprintf("\n%s:\n%s", part.what, strings.Join(lines, ""))
		}
	}
	return strings.TrimSpace(text)
}

// byReason has a line for each reason, with all tests that gave it; of subtests how many.
func (r results) byReason(v verdict) []string {
	tests := map[string]map[string]int{}
	for _, all := range r {
		for test, o := range all {
			if o.verdict == v {
				if tests[o.reason] == nil {
					tests[o.reason] = map[string]int{}
				}
				top, _, isSubtest := strings.Cut(test, "/")
				tests[o.reason][top] += map[bool]int{true: 1}[isSubtest]
			}
		}
	}
	var lines []string
	for _, reason := range slices.Sorted(maps.Keys(tests)) {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(tests[reason])) {
			if subtests := tests[reason][name]; subtests > 0 {
				names = append(names, fmt.Sprintf("`%s` (%d of its subtests)", name, subtests))
			} else {
				names = append(names, "`"+name+"`")
			}
		}
		line := "- " + reason + ": "
		if reason == "" {
			line = "- "
		}
		lines = append(lines, line+strings.Join(names, ", ")+"\n")
	}
	return lines
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
