package main

import (
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// rawNetlink is a round of the program raw.
func rawNetlink(t host.T) func() ([]time.Duration, error) {
	h := host.New(t)
	run := rawOn(t, h)
	return func() ([]time.Duration, error) {
		add, addCPU, err := run("ADD")
		if err != nil {
			return nil, err
		}
		time.Sleep(measure.Pause)
		del, delCPU, err := run("DEL")
		time.Sleep(measure.Pause) // the element ends within two ticks
		return []time.Duration{add, del, addCPU, delCPU}, err
	}
}

// rawArgs prepares the host, and gives the program's words but for the command.
func rawArgs(t host.T, h *host.Host) (program string, args []string) {
	c := h.Container("c1")
	h.MustRun("sh", "-ec", `ip link add br0 type bridge; ip address add 10.22.0.1/16 dev br0; ip link set br0 up
		nft add table inet raw
		nft add map inet raw ports '{ type inet_proto . inet_service : ipv4_addr . inet_service; flags timeout; }'`)
	return build(t, "raw"), []string{c.NetNS, strings.TrimSpace(h.MustRun("cat", "/sys/class/net/br0/ifindex"))}
}

func rawOn(t host.T, h *host.Host) func(command string) (took, cpu time.Duration, err error) {
	program, args := rawArgs(t, h)
	return func(command string) (time.Duration, time.Duration, error) {
		watch := &stopwatch{}
		took, err := watch.time(func() error {
			return h.Do(func() error { return watch.run(program, append([]string{command}, args...)...) })
		})
		return took, watch.cpu, err
	}
}
