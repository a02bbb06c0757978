package ipambench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// caller calls one program on a data directory.
type caller struct {
	program, data, netns string
	rounds               int                // how many it takes part in
	took                 [2][]time.Duration // CPU time, by verb
}

// cost is what one call took.
type cost struct{ cpu, wall time.Duration }

const config = `{"cniVersion":"1.0.0","name":"net","type":"bridge","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/16"}]]}}`

// round measures each verb once. A first time that does not count fetches into
// the CPU's caches what another program has driven out of them.
func (c *caller) round(number int) error {
	if number >= c.rounds {
		return nil
	}
	for _, counts := range []bool{false, true} {
		for i, verb := range verbs {
			took, err := c.call(verb, "one")
			if err != nil {
				return err
			}
			if counts {
				c.took[i] = append(c.took[i], took.cpu)
			}
		}
	}
	return nil
}

func (c *caller) call(verb, id string) (cost, error) {
	cmd := exec.Command(c.program)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=" + c.netns, "CNI_PATH=/nowhere"}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(config, c.data))
	var answer bytes.Buffer
	cmd.Stdout = &answer
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%s %s %s: %w: %s", c.program, verb, id, err, answer.String())
	}
	return cost{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), wall: time.Since(begin)}, nil
}

// fill writes n leases as host-local writes them, and its cursor.
func (c *caller) fill(n int) error {
	dir := filepath.Join(c.data, "net")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := 2; i < n+2; i++ {
		name := fmt.Sprintf("10.1.%d.%d", i>>8, i&255)
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, "filler%d\r\neth0", i), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "last_reserved_ip.0"), fmt.Appendf(nil, "10.1.%d.%d", (n+1)>>8, (n+1)&255), 0o600)
}

// startNetNS makes a network namespace that lives until stop is called.
func startNetNS() (path string, stop func(), err error) {
	holder := exec.Command("sleep", "86400")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		return "", nil, fmt.Errorf("make a network namespace (needs root): %w", err)
	}
	stop = func() {
		_ = holder.Process.Kill() // it may have ended
		_ = holder.Wait()         // it was killed, and says so
	}
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), stop, nil
}
