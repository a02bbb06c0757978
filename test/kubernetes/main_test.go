//go:build kubernetes

package kubernetes

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

func TestMain(m *testing.M) { os.Exit(runtimes.Main(leavesNothing{m})) }

// leavesNothing fails where the real host is not as it was before the tests.
type leavesNothing struct{ tests interface{ Run() int } }

func (l leavesNothing) Run() int {
	before := realHost()
	code := l.tests.Run()
	for what, was := range before {
		if is := realHost()[what]; is != was {
			fmt.Printf("the real host's %s: it was\n%s\nand is\n%s\n", what, was, is)
			code = 1
		}
	}
	return code
}

// realHost is what kubelets and their like change of a host.
func realHost() map[string]string {
	found := map[string]string{}
	for name := range hostWide {
		found[name] = read("/proc/sys/" + name)
	}
	found["mounts"] = read("/proc/self/mounts")
	interfaces, err := net.Interfaces()
	found["links"] = fmt.Sprint(err)
	for _, i := range interfaces {
		found["links"] += " " + i.Name
	}
	for _, pattern := range []string{
		"/etc/kubernetes/*", "/etc/cni/net.d/*", "/opt/cni/bin/*", "/run/trestle/*", "/run/containerd/*", "/var/lib/kubelet/*", "/var/lib/cni/*",
		"/var/lib/trestle/*", "/var/log/pods/*", "/var/log/containers/*", "/usr/libexec/kubernetes/*", "/root/.kube/*", "/sys/fs/cgroup/*/kubepods",
	} {
		paths, err := filepath.Glob(pattern)
		found[pattern] = fmt.Sprint(err, " ", strings.Join(paths, " "))
	}
	return found
}

func read(path string) string {
	data, err := os.ReadFile(path)
	return string(data) + fmt.Sprint(err)
}
