package runtimes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

// NewDebian is a Machine as Debian's packages of containerd, podman and the
// reference plugins leave it, for the commands of docs/: nothing of Trestle's is
// there, a checkout of it can be cloned, and BusyBox is an image that needs no
// pull. What stands in for something else is in standIns.
func NewDebian(t host.T) *Machine {
	t.Helper()
	podmanNetwork, err := os.ReadFile("/etc/cni/net.d/87-podman-bridge.conflist")
	if err != nil {
		t.Fatalf("make a machine with Debian's layout: %v", err)
	}
	m := newMachine(t)
	err = m.Do(func() error {
		// /etc, /opt and /var/lib are the machine's own already.
		return errors.Join(overlayPrivate("/usr"), mountTmpfs("/var/lib/containerd"), mountTmpfs("/var/lib/containers"))
	})
	if err != nil {
		t.Fatalf("make a machine with Debian's layout: %v", err)
	}
	m.WriteFile("/etc/cni/net.d/87-podman-bridge.conflist", string(podmanNetwork))
	m.WriteFile("/etc/containers/containers.conf.d/machine.conf", podmanWithoutSystemd)
	for name, script := range standIns {
		m.WriteFile(standInDir+"/"+name, "#!/bin/sh\n"+script)
	}
	m.MustRun("sh", "-c", "chmod +x "+standInDir+"/*")
	m.copyCheckout()
	return m
}

// copyCheckout puts there what git clone then clones: the files of this checkout,
// and the programs that are built already.
func (m *Machine) copyCheckout() {
	m.t.Helper()
	root, err := goCommand("list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	command := []string{"cp", "-a", "--target-directory", checkoutDir}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			command = append(command, filepath.Join(root, entry.Name()))
		}
	}
	m.MustRun("mkdir", "-p", checkoutDir)
	m.MustRun(command...)
}

// overlayPrivate lets the machine write to a directory of the real host's.
func overlayPrivate(dir string) error {
	over := filepath.Join(scratch, "over", dir)
	upper, work := filepath.Join(over, "upper"), filepath.Join(over, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", dir, err)
	}
	return nil
}

// podmanWithoutSystemd is what podman needs on a machine that has none.
const podmanWithoutSystemd = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
log_driver = "k8s-file"
`

const (
	checkoutDir = scratch + "/checkout"
	standInDir  = scratch + "/bin"
)

// standIns are first in PATH: scripts of sh in the place of what a Machine has
// not, an init system and the network of the real host.
var standIns = map[string]string{
	"git": `[ "$1" = clone ] && exec cp -a ` + checkoutDir + ` trestle
exec /usr/bin/git "$@"
`,
	"systemctl": `[ "$*" = "restart containerd" ] || { echo "systemctl $*: no stand-in for that" >&2; exit 1; }
pid=/run/containerd.pid
if [ -e $pid ]; then kill "$(cat $pid)"; while kill -0 "$(cat $pid)" 2>/dev/null; do sleep 0.05; done; fi
containerd >/run/containerd.log 2>&1 &
echo $! >$pid
while kill -0 $! 2>/dev/null; do ctr --connect-timeout 1s version >/dev/null 2>&1 && exit; sleep 0.05; done
tail -n 5 /run/containerd.log >&2
exit 1
`,
}

// Shell runs a script of sh as root at its terminal does, but for the stand-ins.
// It begins in the directory in which the script before ended, and stops at the
// first command that fails.
func (m *Machine) Shell(script string) (host.Output, error) {
	const cwd = scratch + "/cwd"
	script = "cd \"$(cat " + cwd + " 2>/dev/null || echo " + scratch + ")\"\nset -e\nunset MAKEFLAGS MAKELEVEL MFLAGS # of the make that runs the test\n" + script + "\npwd >" + cwd + "\n"
	return m.RunRuntime(host.Command{
		Args: []string{"bash", "-c", script},
		Env:  []string{"PATH=" + standInDir + ":" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"},
	})
}
