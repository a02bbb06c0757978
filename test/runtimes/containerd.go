package runtimes

import (
	"fmt"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// Containerd is a containerd that runs on a Machine.
type Containerd struct {
	// Log is what it printed, one line for each message; complete after Kill.
	Log string

	m    *Machine
	dir  string // of its programs; "" where PATH has them
	stop func() string
}

// The places of a containerd. Its state is in /run/containerd, as everywhere.
const (
	containerdRoot   = scratch + "/containerd"
	containerdConfig = "/etc/containerd/config.toml"
	containerdSocket = "/run/containerd/containerd.sock"
)

// Snapshotter is the one that containers are made with.
const Snapshotter = "overlayfs"

// Containerd starts the containerd of a directory ("" is the one in PATH) with
// a configuration, which may hold %[1]s for its root directory, and gives it
// Image in a namespace of containerd's.
func (m *Machine) Containerd(dir, config, namespace string) *Containerd {
	m.t.Helper()
	m.WriteFile(containerdConfig, fmt.Sprintf(config, containerdRoot))
	c := &Containerd{m: m, dir: dir}
	c.Start()
	m.t.Cleanup(c.Kill)
	c.load(m.ImageArchive(), namespace)
	return c
}

// Image gives containerd an image of busybox and files, by their places in it.
func (c *Containerd) Image(name, namespace string, files map[string]string) {
	c.m.t.Helper()
	archive, err := imageArchive(name, files)
	if err != nil {
		c.m.t.Fatalf("%v", err)
	}
	const path = scratch + "/more.tar"
	c.m.WriteFile(path, string(archive))
	c.load(path, namespace)
}

func (c *Containerd) load(archive, namespace string) {
	c.m.t.Helper()
	local := ""
	if help := c.mustRun("ctr", "images", "import", "--help"); strings.Contains(help, "--local") {
		local = " --local" // containerd 2 else asks a service that has no snapshotter but its default
	}
	command := fmt.Sprintf("-n %s images import%s --snapshotter %s %s", namespace, local, Snapshotter, archive)
	if output := c.Ctr(strings.Fields(command)...); output.Code != 0 {
		c.m.t.Fatalf("import %s: %s%s", archive, output.Stdout, output.Stderr)
	}
}

// ImageArchive writes Image to a file on the machine and says where.
func (m *Machine) ImageArchive() string {
	m.t.Helper()
	programs, err := buildPrograms()
	if err != nil {
		m.t.Fatalf("build the programs for tests: %v", err)
	}
	archive, err := imageArchive(Image, map[string]string{"bin/peer": programs.peer})
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	path := scratch + "/image.tar"
	m.WriteFile(path, string(archive))
	return path
}

// Start starts it, at first or after Kill, and waits until it answers.
func (c *Containerd) Start() {
	c.m.t.Helper()
	c.stop = c.m.StartRuntime(c.command("containerd", "--config", containerdConfig))
	if err := eventually(func() error {
		if output := c.Ctr("version"); output.Code != 0 {
			return fmt.Errorf("%s", output.Stderr)
		}
		return nil
	}); err != nil {
		c.Kill()
		c.m.t.Fatalf("containerd does not answer: %v\n%s", err, c.Log)
	}
}

// Kill ends it as kill -9 does; its containers stay.
func (c *Containerd) Kill() {
	if c.stop != nil {
		c.Log += c.stop()
		c.stop = nil
	}
}

// Ctr runs ctr.
func (c *Containerd) Ctr(args ...string) host.Output {
	c.m.t.Helper()
	output, err := c.m.RunRuntime(c.command("ctr", args...))
	if err != nil {
		c.m.t.Fatalf("%v", err)
	}
	return output
}

func (c *Containerd) mustRun(program string, args ...string) string {
	c.m.t.Helper()
	output, err := c.m.RunRuntime(c.command(program, args...))
	if err != nil || output.Code != 0 {
		c.m.t.Fatalf("%s %s: %v, exit status %d: %s", program, strings.Join(args, " "), err, output.Code, output.Stderr)
	}
	return output.Stdout
}

// command is one of containerd's programs; it finds the others by PATH.
func (c *Containerd) command(program string, args ...string) host.Command {
	command := host.Command{Args: append([]string{program}, args...)}
	if c.dir != "" {
		command.Args = append([]string{"env", "PATH=" + c.dir + ":/usr/sbin:/usr/bin:/sbin:/bin"}, command.Args...)
	}
	return command
}

// startTime bounds the wait for what another process is about to do.
const startTime = 30 * time.Second

// eventually calls fn until it succeeds; the error is its last one.
func eventually(fn func() error) error {
	for end := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		err := fn()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
