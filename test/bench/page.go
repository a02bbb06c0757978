package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
)

// page is docs/benchmarks.md as it comes to be.
type page struct {
	size   string
	began  time.Time
	text   strings.Builder
	charts map[string]string // by file
}

func newPage(size string) *page {
	return &page{size: size, began: time.Now(), charts: map[string]string{}}
}

// picturesDir is beside the page.
const picturesDir = "benchmarks"

// head says what the numbers were measured on.
func (p *page) head() string {
	return fmt.Sprintf("%s, %d CPUs (%s), %d MiB; %s; reference plugins %s; %s; load average at the beginning %s; leases and records on tmpfs\n\n",
		first("/proc/sys/kernel/osrelease"), runtime.NumCPU(), cpu(), memory(), runtime.Version(), referenceVersion(), programVersions(), first("/proc/loadavg"))
}

func (p *page) chapter(title string) { fmt.Fprintf(&p.text, "\n## %s\n", title) }

func (p *page) add(t measure.Table) {
	if t.Title == "" {
		return // left out by the caller
	}
	file := t.Slug() + ".svg"
	p.charts[file] = t.Chart()
	fmt.Fprintf(&p.text, "\n### %s\n\n", t.Title)
	if t.Note != "" {
		p.text.WriteString(t.Note + "\n\n")
	}
	fmt.Fprintf(&p.text, "![%s](%s/%s)\n\n%s", t.Title, picturesDir, file, t.Markdown())
}

// remark is a table without times.
func (p *page) remark(table string) { p.text.WriteString("\n" + table) }

func (p *page) counts(table string) {
	p.text.WriteString("\n## Counted rather than timed\n\n" + countsNote + "\n\n" + table)
}

const countsNote = `Of the second container of a network, by strace; grace periods, by perf, are those that a process sleeps for. Three of each DEL, expedited ones, and a barrier are the
kernel's own deletion of a veth pair.`

const introduction = `# Benchmarks

Written by ` + "`make bench`" + `, on one machine, in one run. Each variant has a host of its own (namespaces), and the variants take turns,
round by round, so that whatever disturbs the machine disturbs them all. Shown are median, smallest and largest of n rounds, without the first, from before
fork to after wait of all processes that the runtime starts. *ratio* is to the first row of a table.
*CPU* is the processor time of these processes; what the kernel does afterwards is not counted. The floors are an empty Go program, executed as often as
the chain has plugins, and one that makes and removes the same in the kernel by raw netlink, in the fewest messages and without checks.
Grace periods of the kernel (RCU) are most of DEL: they take 4 to 16 ms on kernels with 250 ticks a second.

`

const peersElsewhere = `
## Not of this run

kindnet's CNI (ptp, no masquerade of its own), measured once on a machine of this kind: ADD 6.4 ms, DEL 24.8 ms; with 1 port 17.4 and
34.8 ms, with 10 ports 16.9 and 34.6 ms. It is not part of the run, and given for orientation only.
`

// write puts the page and its pictures into the directory; pictures of tables that are no more go.
func (p *page) write(dir string) error {
	pictures := filepath.Join(dir, picturesDir)
	if err := os.RemoveAll(pictures); err != nil {
		return err
	}
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	for file, chart := range p.charts {
		if err := os.WriteFile(filepath.Join(pictures, file), []byte(chart), 0o644); err != nil {
			return err
		}
	}
	text := introduction + p.head() + fmt.Sprintf("Measured on %s, size %s, in %d s.\n", p.began.UTC().Format("2006-01-02"), p.size, int(time.Since(p.began).Seconds())) +
		p.text.String() + peersElsewhere
	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), []byte(text), 0o644)
}

// first is the first line of a file.
func first(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// field is that of a file of lines "name : value".
func field(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func cpu() string { return field("/proc/cpuinfo", "model name") }

func memory() int {
	var kib int
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err != nil {
		return 0
	}
	return kib >> 10
}

// programVersions are those of the programs that the reference plugins, and this one, run.
func programVersions() string {
	var all []string
	for _, args := range [][]string{{"nft", "--version"}, {"iptables", "--version"}, {"iperf3", "--version"}} {
		said, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			continue // it is not there
		}
		line, _, _ := strings.Cut(string(said), "\n")
		words := strings.Fields(line)
		all = append(all, strings.Join(words[:min(2, len(words))], " "))
	}
	return strings.Join(all, ", ")
}

// referenceVersion is that of the module which the peers are built of.
func referenceVersion() string {
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/containernetworking/plugins").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(version))
}
