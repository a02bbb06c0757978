package runtimes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

// scenario is a page on a host that has what the page takes for granted.
type scenario struct {
	page string
	name string // of the test, where there are several of a page
	// before is a script of sh that the host has gone through, in a checkout of Trestle.
	before string
	edit   *strings.Replacer // of the page's commands
	then   func(*testing.T, *runtimes.Machine)
}

const (
	withTrestle = "make install; cp conflist/10-trestle.conflist /etc/cni/net.d/\n"
	withImage   = `tar -C / -c bin/busybox | podman import --quiet --change 'ENTRYPOINT ["/bin/busybox"]' - localhost/demo` + "\n"
	web         = "podman run --detach --name web --publish 8080:80 localhost/demo httpd -f -p 80 -h /etc\n"
	// podman's own networks stay where Debian has them.
	podmanByTrestle = "mkdir -p /etc/containers/containers.conf.d\n" +
		`printf '[network]\ncni_plugin_dirs = ["/opt/cni/bin"]\n' >/etc/containers/containers.conf.d/trestle.conf` + "\n"
)

func scenarios() []scenario {
	return []scenario{
		{page: "README.md"},
		{page: "docs/getting-started.md", before: "cd ..; rm -r trestle\n", then: assertUninstalled},
		{page: "docs/containerd.md"},
		{page: "docs/podman.md", before: withImage},
		{page: "docs/nerdctl.md"},
		{page: "docs/cri-o.md"},
		{page: "docs/hosts.md"},
		{page: "docs/kubernetes.md", before: withTrestle + "mv /usr/local/bin/trestle /opt/cni/bin; rm /usr/local/bin/trestle-node\n", then: assertUninstalled},
		{page: "docs/switching-over.md", name: "Debian", before: withImage + web, then: assertReference("/usr/lib/cni")},
		{
			page: "docs/switching-over.md", name: "usual layout",
			before: "mkdir -p /opt/cni/bin; cp -a /usr/lib/cni/. /opt/cni/bin; rm -r /usr/lib/cni/*\n" + withImage + web,
			edit:   strings.NewReplacer("echo /usr/lib/cni >", "echo /opt/cni/bin >"),
			then:   assertReference("/opt/cni/bin"),
		},
		{
			page:   "docs/troubleshooting.md",
			before: withTrestle + withImage + podmanByTrestle + strings.Replace(web, "--name", "--network trestle --name", 1),
			edit:   strings.NewReplacer("for iptables in", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP\nfor iptables in"),
			then:   assertWebServed,
		},
	}
}

// TestDocsCommands runs every command of the pages, in the order of each page, on
// a host of its own, and compares what they print.
func TestDocsCommands(t *testing.T) {
	runtimes.Need(t, "containerd", "runc", "podman", "curl")
	for _, s := range scenarios() {
		t.Run(s.page+s.name, func(t *testing.T) {
			t.Parallel()
			m := runtimes.NewDebian(t)
			output, err := m.Shell("exec 2>&1; cd /usr/local/src; git clone trestle; cd trestle\n" + s.before)
			if err != nil || output.Code != 0 {
				t.Fatalf("before: %v, exit status %d: %s", err, output.Code, output.Stdout)
			}
			s.run(t, m)
			if s.then != nil {
				s.then(t, m)
			}
		})
	}
}

// notRun begins a block of commands that no test can run, with the reason.
const notRun = "# not run here: "

// skipped are the commands that a test of all commands cannot run itself.
var skipped = []string{"make test "}

// run runs the page's blocks of commands one after another, as somebody does who
// copies them to a shell, and compares what a block printed with the block of text
// that follows it.
func (s scenario) run(t *testing.T, m *runtimes.Machine) {
	t.Helper()
	blocks := pageBlocks(t, s.page)
	for i, b := range blocks {
		skip := slices.ContainsFunc(append(skipped, notRun), func(prefix string) bool { return strings.HasPrefix(b.text, prefix) })
		if b.language != "sh" || skip {
			continue
		}
		script := b.text
		if s.edit != nil {
			script = s.edit.Replace(script)
		}
		output, err := m.Shell("exec 2>&1\n" + script)
		if err != nil || output.Code != 0 {
			t.Fatalf("%s: %v, exit status %d:\n%s", b.place, err, output.Code, output.Stdout)
		}
		if i+1 == len(blocks) || blocks[i+1].language != "text" {
			continue
		}
		if want := blocks[i+1]; !printed(want.text).MatchString(output.Stdout) {
			t.Errorf("%s: got\n%s\nwant (%s)\n%s", b.place, output.Stdout, want.place, want.text)
		}
	}
}

// printed is what matches an output as a page shows it: "…" is anything on a
// line, and alone on a line any lines.
func printed(text string) *regexp.Regexp {
	var pattern strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "…" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + ` *\n`)
	}
	return regexp.MustCompile("^" + pattern.String() + "$")
}

func TestPrinted(t *testing.T) {
	for _, test := range []struct {
		want, got string
		matches   bool
	}{
		{"a\nb\n", "a\nb\n", true},
		{"a\nb\n", "a\nb\nc\n", false},
		{"a…\n", "a and more\n", true},
		{"a…\n", "a\nb\n", false},
		{"…\nb\n", "b\n", true},
		{"…\nb\n", "a\na\nb\n", true},
		{"…\nb\n", "b\na\n", false},
		{"a\n…\n", "a\nb\nc\n", true},
		{"v2.…\n", "v2x\n", false},
	} {
		if got := printed(test.want).MatchString(test.got); got != test.matches {
			t.Errorf("%q printed, %q wanted: got %v, want %v", test.got, test.want, got, test.matches)
		}
	}
}

// TestDocsCommandsAreFenced: no page has commands where no test would run them,
// and each page with commands is run.
func TestDocsCommandsAreFenced(t *testing.T) {
	indented := regexp.MustCompile(`(?m)^\n    \S.*$`)
	for page := range allPages(t) {
		data, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		if found := indented.FindAllString(fence.ReplaceAllString(string(data), ""), -1); len(found) > 0 {
			t.Errorf("%s: got an indented block, want a fenced one: %q", page, found)
		}
		run := slices.ContainsFunc(scenarios(), func(s scenario) bool { return s.page == page })
		commands := slices.ContainsFunc(pageBlocks(t, page), func(b block) bool { return b.language == "sh" })
		if commands != run {
			t.Errorf("%s: commands %v, run %v", page, commands, run)
		}
	}
}

// TestDocsInlineCommands runs the commands within sentences and tables that only
// look, on a host with a container that has a mapped port and a policy.
func TestDocsInlineCommands(t *testing.T) {
	t.Parallel()
	runtimes.Need(t, "podman", "runc")
	m := runtimes.NewDebian(t)
	policy := `sed -i 's/"portMappings": true }/& }, { "type": "firewall", "ingressPolicy": "same-bridge"/' /etc/cni/net.d/10-trestle.conflist` + "\n"
	before := withTrestle + withImage + podmanByTrestle + policy + strings.Replace(web, "--name", "--network trestle --name", 1)
	if output, err := m.Shell("exec 2>&1; cd /usr/local/src; git clone trestle; cd trestle\n" + before); err != nil || output.Code != 0 {
		t.Fatalf("before: %v, exit status %d: %s", err, output.Code, output.Stdout)
	}
	looks := regexp.MustCompile("`((?:ip|ss|ls|sysctl|nft list|iptables -S) [^`<…]*)`")
	ran := 0
	for page := range allPages(t) {
		data, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range looks.FindAllStringSubmatch(fence.ReplaceAllString(string(data), ""), -1) {
			command := match[1]
			if strings.Contains(command, "sysctl net.bridge.") {
				command += " || [ ! -e /proc/sys/net/bridge ]" // a module that not every kernel has
			}
			ran++
			if output, err := m.Shell("exec 2>&1\n" + command); err != nil || output.Code != 0 || output.Stdout == "" {
				t.Errorf("%s: %s: %v, exit status %d: %q", page, command, err, output.Code, output.Stdout)
			}
		}
	}
	if ran < 10 {
		t.Errorf("got %d commands in sentences and tables, want more", ran)
	}
}

// assertUninstalled: the page's last commands have removed what is Trestle's.
func assertUninstalled(t *testing.T, m *runtimes.Machine) {
	for _, dir := range []string{"/opt/cni/bin", "/usr/local/bin"} {
		output, err := m.Shell("grep -laF github.com/trestle-cni/trestle -r " + dir + " || :")
		if err != nil || output.Stdout != "" {
			t.Errorf("got %v, %q in %s, want nothing of Trestle's", err, output.Stdout, dir)
		}
	}
	if got := m.ReadDir("/etc/cni/net.d"); slices.ContainsFunc(got, func(name string) bool { return strings.Contains(name, "k8s") }) {
		t.Errorf("got the lists %v, want none for Kubernetes", got)
	}
	if got := len(m.ReadDir("/usr/lib/cni")); got < 10 {
		t.Errorf("got %d of Debian's plugins, want them untouched", got)
	}
}

// assertReference: the way back has led to the plugins that were there at first,
// dpkg knows of no diversion, and nothing of the reference's own rules is left.
func assertReference(dir string) func(*testing.T, *runtimes.Machine) {
	return func(t *testing.T, m *runtimes.Machine) {
		m.MustRun("diff", "-r", dir, dir+".reference")
		if got := m.MustRun("dpkg-divert", "--list", dir+"/*"); got != "" {
			t.Errorf("got the diversions %q, want none", got)
		}
		for _, save := range []string{"iptables-save", "ip6tables-save"} {
			if got := m.MustRun(save); strings.Contains(got, "CNI-") {
				t.Errorf("%s: got\n%s\nwant no chain of the reference's", save, got)
			}
		}
		if got := m.MustRun("nft", "list", "tables"); strings.Contains(got, "cni") {
			t.Errorf("got the tables %q, want none of the reference's", got)
		}
	}
}

// assertWebServed: with FORWARD's policy DROP, whose rules are those of the page,
// the port is reached from outside.
func assertWebServed(t *testing.T, m *runtimes.Machine) {
	if got := m.MustRun("iptables", "-S", "FORWARD"); !strings.Contains(got, "-P FORWARD DROP") {
		t.Fatalf("got %q, want the policy DROP", got)
	}
	for _, host := range []string{"192.0.2.2", "[2001:db8::2]"} {
		m.Outside.MustRun("curl", "-sS", "--max-time", "5", "-o", "/dev/null", "http://"+host+":8080/hostname")
	}
}

// block is a fenced block of a page.
type block struct {
	place    string // "docs/x.md:12"
	language string
	text     string
}

var fence = regexp.MustCompile("(?ms)( *)```([a-z]*)\n(.*?)\n *```$")

// pageBlocks is the fenced blocks of a page ("docs/x.md"), in their order.
func pageBlocks(t *testing.T, page string) []block {
	t.Helper()
	data, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	var blocks []block
	for _, at := range fence.FindAllStringSubmatchIndex(text, -1) {
		indent := text[at[2]:at[3]]
		content := strings.ReplaceAll("\n"+text[at[6]:at[7]], "\n"+indent, "\n")[1:] + "\n"
		line := 1 + strings.Count(text[:at[0]], "\n")
		blocks = append(blocks, block{fmt.Sprintf("%s:%d", page, line), text[at[4]:at[5]], content})
	}
	return blocks
}

// allPages is the names of all pages.
func allPages(t *testing.T) func(yield func(string) bool) {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("got the pages %v, %v, want all", files, err)
	}
	pages := []string{"README.md"}
	for _, file := range files {
		pages = append(pages, strings.TrimPrefix(file, "../../"))
	}
	return slices.Values(pages)
}
