package trestle

import (
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// statusAnswer is what TestStatus reads of the answer.
type statusAnswer struct {
	Trestle, Release string
	Runtimes         []struct {
		Name, Version, Suite string
		Plugins, Lists       []string
		Missing              []string
		Programs             []struct{ Name, Path, Suite, Version string }
		Next                 *struct {
			Network, Bridge   string
			Subnets           []string
			Free              []uint64
			Masquerade, Ports bool
		}
	}
	Made   map[string]int
	Others []string
}

// withRuntimes has containerd and podman installed, configured by these files; programs
// in their place only say their versions.
func withRuntimes(t *testing.T, h *host.Host, containerd, podman string) {
	t.Helper()
	h.WriteProgram("/opt/rt/containerd", "#!/bin/sh\necho containerd github.com/containerd/containerd v2.1.4 abc\n")
	h.WriteProgram("/opt/rt/podman", "#!/bin/sh\necho podman version 4.9.3\n")
	h.WriteProgram("/etc/containerd/config.toml", containerd)
	h.WriteProgram("/etc/containers/containers.conf", podman)
}

func status(t *testing.T, h *host.Host, args ...string) host.Output {
	t.Helper()
	output, err := h.Run(host.Command{
		Args: append([]string{h.Dirs().Trestle + "/trestle", "status"}, args...),
		Env:  []string{"CNI_PATH=" + h.Dirs().Trestle, "PATH=/opt/rt:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err != nil || output.Code != 0 {
		t.Fatalf("status: %+v, %v", output, err)
	}
	return output
}

// TestStatus: whose plugins each runtime runs, by its own configuration, and what its next
// container gets.
func TestStatus(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	ours := "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['" + p.Dirs().Trestle + "']\n"
	withRuntimes(t, p.Host, ours, "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\""+p.Dirs().Trestle+"\"]\ndefault_network = \"trestle\"\n")
	before := p.Dump()
	got := decode[statusAnswer](t, status(t, p.Host, "--json").Stdout)
	if got.Trestle != "yes" || got.Made["trestle"] != 1 || len(got.Others) != 0 || len(got.Runtimes) != 3 {
		t.Fatalf("got %+v, want all of it Trestle's", got)
	}
	c := got.Runtimes[0]
	if c.Name != "containerd" || c.Version != "2.1.4" || !slices.Equal(c.Plugins, []string{p.Dirs().Trestle}) || len(c.Programs) != 3 ||
		c.Programs[0].Suite != "trestle" || c.Programs[0].Version != got.Release || c.Programs[0].Path != p.Dirs().Trestle+"/bridge" {
		t.Errorf("got %+v", c)
	}
	if n := c.Next; n == nil || n.Network != "trestle" || n.Bridge != "trestle0" || !n.Masquerade || !n.Ports || len(n.Subnets) != 2 || n.Free[0] != 65532 {
		t.Errorf("got %+v", c.Next)
	}
	text := status(t, p.Host).Stdout
	for _, want := range []string{"is Trestle's.\n", "containerd", "2.1.4", p.Dirs().Trestle, "10.22.0.0/16", "65532", "bridge trestle0", "by others: 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%swant %q in it", text, want)
		}
	}
	p.AssertUnchanged(before)
	refused(t, p.Host, []string{"now"}, "status", "now")
}

// TestStatusMixed: a runtime that looks elsewhere is told, and who made what there is.
func TestStatusMixed(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	withRuntimes(t, p.Host, "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir = '"+p.Dirs().Reference+"'\n", "[network]\nnetwork_backend = \"netavark\"\n")
	p.net.Path = []string{p.Dirs().Reference}
	p.attach("former", 8085)
	got := decode[statusAnswer](t, status(t, p.Host, "--json").Stdout)
	if got.Trestle != "partly" || got.Made["trestle"] != 1 || !slices.Equal(got.Others, []string{"trestle/former/eth0"}) {
		t.Errorf("got %+v", got)
	}
	if c := got.Runtimes[0]; len(c.Programs) == 0 || c.Programs[0].Suite != "reference" || c.Programs[0].Path != p.Dirs().Reference+"/bridge" {
		t.Errorf("got %+v, want the reference plugins", c)
	}
	if text := status(t, p.Host).Stdout; !strings.Contains(text, "only in part") || !strings.Contains(text, "none: netavark") || !strings.Contains(text, "trestle/former/eth0") {
		t.Errorf("got\n%s", text)
	}
}
