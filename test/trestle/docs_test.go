package trestle

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/test/host"
)

var update = flag.Bool("update", false, "redraw the pictures of the pages")

// TestPicturesOfDocs: the pictures of the pages are what the commands draw: of the usual
// network with two containers, one of which publishes a port.
func TestPicturesOfDocs(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	list, err := conflist.Files.ReadFile(conflist.Default)
	if err != nil {
		t.Fatal(err)
	}
	h.InstallNetwork(conflist.Default, string(list))
	network := h.Network(string(list))
	for _, id := range []string{"c1", "c2"} {
		attachment := h.Container(id).Attachment()
		if id == "c1" {
			attachment.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
		}
		if _, err := network.Add(attachment); err != nil {
			t.Fatal(err)
		}
	}
	// the kernel numbers namespaces and links as they come
	numbers := regexp.MustCompile(`index \d+ in namespace \d+`)
	draw := func(args ...string) string {
		return numbers.ReplaceAllString(must(t, h, args...), "index 2 in namespace 0")
	}
	const picture, page = "../../docs/topology.svg", "../../docs/pictures.md"
	svg := draw("topology", "--svg", "-")
	if *update {
		if err := os.WriteFile(picture, []byte(svg), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if drawn, err := os.ReadFile(picture); err != nil || string(drawn) != svg {
		t.Errorf("%s is not what trestle topology draws (%v); go test ./test/trestle -run PicturesOfDocs -update redraws it", picture, err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"topology", "ip map"} {
		block := "$ trestle " + command + "\n" + draw(strings.Fields(command)...) + "```\n"
		if !strings.Contains(string(text), block) {
			t.Errorf("%s: the block of trestle %s should be\n%s", page, command, block)
		}
	}
}

// TestCommandsOfTheAgent: the manual lists the commands that trestle-node has.
func TestCommandsOfTheAgent(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	manual, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^  ([a-z-]+) +[A-Z]`)
	for _, group := range []string{"node", "cluster"} {
		_, section, _ := strings.Cut(string(manual), "\n## trestle "+group+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		help := must(t, h, group, "--help")
		if want := "\n  trestle " + group + " [command]\n"; !strings.Contains(help, want) {
			t.Errorf("trestle %s --help: got\n%swant it by the name that people call it", group, help)
		}
		commands := names.FindAllStringSubmatch(help, -1)
		if len(commands) < 5 {
			t.Errorf("trestle %s --help: got the commands %v, want all", group, commands)
		}
		for _, command := range commands {
			if !regexp.MustCompile(`(?m)^ *` + command[1] + `  `).MatchString(section) {
				t.Errorf("docs/cli.md: trestle %s does not list %s", group, command[1])
			}
		}
	}
}
