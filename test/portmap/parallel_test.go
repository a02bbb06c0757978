package portmap

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestPortmapInParallel: containers come and go at once, while two restore and two
// collect garbage; nobody fails, and nothing is left.
func TestPortmapInParallel(t *testing.T) {
	t.Parallel()
	for backend, containers := range map[string]int{"nftables": 100, "iptables": 20} { // each of iptables' is two programs under the lock
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			n.makeKernelTables()
			before := n.Dump()
			p := portmapCrowd{n, backend, containers}
			p.all(t, "ADD")
			if backend == "nftables" {
				p.once(t)
			}
			p.all(t, "DEL")
			n.collect(t)
			n.AssertUnchanged(before, "link veth-c1", "neighbour")
		})
	}
}

type portmapCrowd struct {
	natNet
	backend    string
	containers int
}

const portsOfEach = 5

func (p portmapCrowd) call(verb string, i int) host.Call {
	var mappings []string
	for port := range portsOfEach {
		mappings = append(mappings, natMapping("tcp", "", 10000+portsOfEach*i+port, 80))
	}
	call := p.c1.Call(verb, "portmap", natConfig("blue", fmt.Sprintf(`"backend": %q`, p.backend), natResult(p.c1, natC1v4), strings.Join(mappings, ", ")))
	call.ContainerID = fmt.Sprintf("c%d", i)
	return call
}

// all calls for all, and meanwhile for GC with and without a list, and restore twice.
func (p portmapCrowd) all(t *testing.T, verb string) {
	var crowd, others sync.WaitGroup
	for i := range p.containers {
		crowd.Go(func() {
			if err := p.Exec(p.call(verb, i)).Err(); err != nil {
				t.Errorf("%s of c%d: %v", verb, i, err)
			}
		})
	}
	done := make(chan struct{})
	again := func(do func()) {
		others.Go(func() {
			for {
				do()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	var valid []string
	for i := range p.containers {
		valid = append(valid, fmt.Sprintf(`{"containerID": "c%d", "ifname": "eth0"}`, i))
	}
	for _, list := range []string{"", `"cni.dev/valid-attachments": [` + strings.Join(valid, ", ") + `]`} {
		again(func() {
			if err := p.Exec(host.Call{Plugin: "portmap", Command: "GC", Config: natConfig("blue", list, "", "")}).Err(); err != nil {
				t.Errorf("GC during %s: %v", verb, err)
			}
		})
		again(func() {
			output, err := p.Run(host.Command{Args: []string{filepath.Join(p.Dirs().Trestle, "trestle"), "restore"}})
			if err != nil || output.Code != 0 {
				t.Errorf("restore during %s: %v, %s", verb, err, output.Stderr)
			}
		})
	}
	crowd.Wait()
	close(done)
	others.Wait()
}

// once says whether each element and rule is there, and once.
func (p portmapCrowd) once(t *testing.T) {
	ruleset := p.MustRun("nft", "list", "map", "inet", "trestle", "host_ports4")
	if got, want := strings.Count(ruleset, "comment"), p.containers*portsOfEach; got != want {
		t.Errorf("got %d elements, want %d", got, want)
	}
	rules := strings.Split(p.MustRun("nft", "list", "chain", "inet", "trestle", "host_ports"), "\n")
	slices.Sort(rules)
	if distinct := slices.Compact(slices.Clone(rules)); !slices.Equal(distinct, rules) {
		t.Errorf("got rules twice:\n%s", strings.Join(rules, "\n"))
	}
}
