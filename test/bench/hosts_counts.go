package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// agentCounts is what an agent takes of its host, and of its store.
func agentCounts(t host.T, s size) (string, error) {
	text := "| an agent | memory (RSS), MiB | of it not of the program's file | CPU while nothing happens, % of one | log lines |\n|---|--:|--:|--:|--:|\n"
	for _, peers := range s.hosts {
		for i := range beginners(t, peers) {
			own := &scope{T: t}
			line, err := beginners(own, peers)[i].counts(s, peers)
			own.close()
			if err != nil {
				return "", err
			}
			text += line
		}
	}
	text += "\nAims with 1,000 peers: 30 MiB, 0.2 %, a line for each change of a peer at the most.\n"
	own := &scope{T: t}
	defer own.close()
	count := s.hosts[len(s.hosts)-1]
	joined, err := joinAtOnce(lab.New(own).Etcd(1), "default", count, false)
	if err != nil {
		return "", err
	}
	return text + fmt.Sprintf("\n%d hosts that join at once take %.2f transactions each (aim: 1.5), and have %d different subnets, one of each family each.\n",
		count, float64(joined.Commits)/float64(count), joined.Subnets), nil
}

func (b beginner) counts(s size, peers int) (string, error) {
	m := b.make()
	pid, err := m.pid(m.host)
	if err != nil {
		return "", err
	}
	time.Sleep(s.idle / 5) // what comes after the last route
	before, err := m.ticks(pid)
	if err != nil {
		return "", err
	}
	window := s.idle
	if peers == s.hosts[len(s.hosts)-1] { // those that the aim is about, with an audit, which comes once a minute
		window *= 2
	}
	time.Sleep(window)
	after, err := m.ticks(pid)
	if err != nil {
		return "", err
	}
	whole, err := m.memory(pid, "VmRSS")
	if err != nil {
		return "", err
	}
	own, err := m.memory(pid, "RssAnon")
	if err != nil {
		return "", err
	}
	const perSecond = 100 // USER_HZ
	share := 100 * float64(after-before) / perSecond / window.Seconds()
	return fmt.Sprintf("| %s, %d peers | %d | %d | %.2f | %d |\n", b.name, peers, whole, own, share, strings.Count(m.stop(), "\n")), nil
}

// memory is what the kernel says of the process, in MiB.
func (m *member) memory(pid int, kind string) (int, error) {
	kib, err := strconv.Atoi(strings.Fields(m.host.MustRun("grep", kind, fmt.Sprintf("/proc/%d/status", pid)))[1])
	return kib >> 10, err
}

// ticks is what the process has used of CPUs.
func (m *member) ticks(pid int) (int, error) {
	_, text, _ := strings.Cut(m.host.MustRun("cat", fmt.Sprintf("/proc/%d/stat", pid)), ") ")
	fields := strings.Fields(text) // proc(5): utime and stime are the 14th and 15th
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return user + system, err
}
