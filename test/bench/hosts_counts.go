package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// agentCounts is what an agent takes of its host with its peers in a list.
func agentCounts(t host.T, s size) (string, error) {
	own := &scope{T: t}
	defer own.close()
	text := "| an agent | memory (RSS), MiB | CPU while nothing happens, % of one | log lines |\n|---|--:|--:|--:|\n"
	for _, peers := range s.hosts {
		m := newMember(own, peers)
		status, err := m.Status()
		if err != nil {
			return "", err
		}
		before, err := m.ticks(status.PID)
		if err != nil {
			return "", err
		}
		time.Sleep(s.idle)
		after, err := m.ticks(status.PID)
		if err != nil {
			return "", err
		}
		kib, err := strconv.Atoi(strings.Fields(m.MustRun("grep", "VmRSS", fmt.Sprintf("/proc/%d/status", status.PID)))[1])
		if err != nil {
			return "", err
		}
		const perSecond = 100 // USER_HZ
		share := 100 * float64(after-before) / perSecond / s.idle.Seconds()
		text += fmt.Sprintf("| with %d peers | %d | %.2f | %d |\n", peers, kib>>10, share, strings.Count(m.Kill(), "\n"))
	}
	return text + "\nAims with 1,000 peers: 30 MiB, 0.2 %, a line for each change of a peer at the most.\n", nil
}

// ticks is what the process has used of CPUs.
func (m *member) ticks(pid int) (int, error) {
	_, text, _ := strings.Cut(m.MustRun("cat", fmt.Sprintf("/proc/%d/stat", pid)), ") ")
	fields := strings.Fields(text) // proc(5): utime and stime are the 14th and 15th
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return user + system, err
}
