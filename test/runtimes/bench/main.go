// Command bench compares Trestle with the reference plugins in the hands of
// containerd: many pods that its CRI plugin brings up at once, and down.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

func main() { os.Exit(runtimes.Program(bench)) }

func bench(t host.T) {
	rounds := flag.Int("rounds", 10, "how often each variant is timed")
	pods := flag.Int("pods", 50, "how many pods at once")
	flag.Parse()
	if err := section(t, *pods).Run(*rounds, os.Stdout); err != nil {
		t.Fatalf("%v", err)
	}
}

// network is one that both know, with the backend that is the default of each.
const network = `{"cniVersion": "1.0.0", "name": "n", "plugins": [
	{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
	 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.90.0.0/16"}]]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// section is the table. A pod that fails ends it.
func section(t host.T, pods int) measure.Section {
	return measure.Section{
		Title:      fmt.Sprintf("%d pods by CRI, a host port each", pods),
		Operations: []string{"up", "down"},
		Setup: func() []measure.Variant {
			return []measure.Variant{variant(t, "trestle", pods), variant(t, "reference", pods)}
		},
	}
}

func variant(t host.T, name string, pods int) measure.Variant {
	m := runtimes.New(t)
	if name == "reference" {
		m.Install(m.Dirs().Reference)
	}
	cri := m.Containerd("", runtimes.CRIConfig, "k8s.io")
	cri.WaitForCRI()
	cri.UseNetwork(network)
	return measure.Variant{Name: name, Round: func() ([]time.Duration, error) {
		pods := runtimes.ManyPods(pods)
		began := time.Now()
		if err := cri.RunPods(pods...); err != nil {
			return nil, err
		}
		up := time.Now()
		err := cri.RemovePods(pods...)
		return []time.Duration{up.Sub(began), time.Since(up)}, err
	}}
}
