package runtimes

import (
	"fmt"
	"strings"

	"github.com/trestle-cni/trestle/test/host"
)

// Podman is podman on a Machine, with CNI as its network backend.
type Podman struct{ m *Machine }

const (
	podmanConfig  = "/etc/containers/containers.conf"
	podmanStorage = "/etc/containers/storage.conf"
)

// Podman sets podman up with a containers.conf, and gives it Image.
func (m *Machine) Podman(config string) *Podman {
	m.t.Helper()
	m.WriteFile(podmanConfig, config)
	m.WriteFile(podmanStorage, fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n",
		scratch+"/podman", "/run/containers/storage"))
	p := &Podman{m}
	p.MustRun("load", "--quiet", "--input", m.ImageArchive())
	return p
}

// Run runs podman.
func (p *Podman) Run(args ...string) (host.Output, error) {
	return p.m.RunRuntime(host.Command{
		Args: append([]string{"podman"}, args...),
		Env:  []string{"CONTAINERS_CONF=" + podmanConfig, "CONTAINERS_STORAGE_CONF=" + podmanStorage},
	})
}

// MustRun runs podman, which must succeed, and returns its standard output.
func (p *Podman) MustRun(args ...string) string {
	p.m.t.Helper()
	output, err := p.Run(args...)
	if err == nil && output.Code != 0 {
		err = fmt.Errorf("exit status %d: %s%s", output.Code, output.Stdout, output.Stderr)
	}
	if err != nil {
		p.m.t.Fatalf("podman %s: %v", strings.Join(args, " "), err)
	}
	return output.Stdout
}
