package trestle

import (
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestLooksGrowWithAttachmentsOnly: each attachment more costs a look a few files, and no
// look at another one; so a thousand are looked at within 0.3 s of CPU. No process is run.
func TestLooksGrowWithAttachmentsOnly(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	opened := func(command string, attachments int) int {
		h.MustRun("sh", "-c", fmt.Sprintf(`for i in $(seq %d); do
			printf 'c%%s\r\neth0' $i >/var/lib/cni/networks/lab/10.40.0.$((i+1))
			echo '{"kind":"cniCacheV1","containerId":"c'$i'","ifName":"eth0","networkName":"lab","result":{}}' >/var/lib/cni/results/lab-c$i-eth0
		done`, attachments))
		output, trace, err := h.Trace(host.Strace{Syscalls: "openat,open"}, host.Command{
			Args: []string{h.Dirs().Trestle + "/trestle", command}, Env: []string{"CNI_PATH=" + h.Dirs().Trestle},
		})
		if err != nil || output.Code != 0 {
			t.Fatalf("%s: %v, exit status %d: %s", command, err, output.Code, output.Stderr)
		}
		if len(trace.Execs) != 1 {
			t.Errorf("%s runs %v, want nothing but itself", command, trace.Execs)
		}
		return trace.Calls["openat"] + trace.Calls["open"]
	}
	h.MustRun("mkdir", "-p", "/var/lib/cni/networks/lab", "/var/lib/cni/results")
	for _, command := range []string{"ls", "ports"} {
		few, many := opened(command, 10), opened(command, 110)
		if each := float64(many-few) / 100; each > 3 {
			t.Errorf("%s opens %.1f files for each attachment more, want 3 at most (%d of 10, %d of 110)", command, each, few, many)
		}
		h.MustRun("sh", "-c", "rm /var/lib/cni/networks/lab/10.* /var/lib/cni/results/*")
	}
}
