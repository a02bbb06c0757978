// Package metrics turns the inventory and doctor's findings into metrics for Prometheus.
// It is pure. Start at Samples and Write.
package metrics

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/trestle-cni/trestle/cmd/trestle/doctor"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Sample is one value of a metric.
type Sample struct {
	Name   string            `json:"name"`
	Help   string            `json:"-"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value"`
	// names are the keys of Labels in order.
	names []string
}

type label struct{ name, value string }

type collector struct{ samples []Sample }

func (c *collector) add(name, help string, value float64, labels ...label) {
	s := Sample{Name: "trestle_" + name, Help: help, Value: value, Labels: map[string]string{}}
	for _, l := range labels {
		s.Labels[l.name] = l.value
		s.names = append(s.names, l.name)
	}
	c.samples = append(c.samples, s)
}

// Samples returns all samples, in order.
func Samples(snapshot *inventory.Snapshot, found []doctor.Finding, release string) []Sample {
	var c collector
	c.add("info", "This build; the value is 1.", 1, label{"version", release})
	c.pools(snapshot)
	c.attachments(snapshot)
	c.leaks(snapshot)
	c.hosts(snapshot)
	c.findings(found)
	c.add("problems", "Parts of the host's state that could not be read.", float64(len(snapshot.Problems)))
	slices.SortStableFunc(c.samples, func(a, b Sample) int { return strings.Compare(a.Name, b.Name) })
	return c.samples
}

func (c *collector) pools(snapshot *inventory.Snapshot) {
	for _, n := range snapshot.Networks {
		for _, p := range n.Pools {
			labels := []label{{"network", n.Name}, {"subnet", p.Subnet.String()}, {"first", p.First.String()}}
			c.add("pool_addresses", "Addresses of a pool that can be leased.", float64(p.Size), labels...)
			if p.Unread {
				continue
			}
			c.add("pool_leased_addresses", "Addresses of a pool that are leased.", float64(p.Used), labels...)
			c.add("pool_dead_addresses", "Leased addresses of a pool whose container is gone.", float64(p.Dead), labels...)
		}
		for _, set := range n.PoolSets() {
			labels := []label{{"network", n.Name}, {"set", strconv.Itoa(set[0].Set)}}
			c.add("range_set_addresses", "Addresses that can be leased of all pools of a range set; a container needs one of each set.", float64(set.Size()), labels...)
			if set[0].Unread {
				continue
			}
			c.add("range_set_free_addresses", "Those of a range set that the next container could get: not leased, or of a container that is gone.",
				float64(set.Size()-min(set.InUse(), set.Size())), labels...)
		}
	}
}

func (c *collector) attachments(snapshot *inventory.Snapshot) {
	for _, n := range snapshot.Networks {
		states := map[inventory.State]int{}
		ports := map[string]int{}
		var traffic inventory.Traffic
		for _, a := range snapshot.On(n.Name) {
			states[a.State]++
			traffic.RxBytes += a.Traffic.RxBytes
			traffic.TxBytes += a.Traffic.TxBytes
			for _, p := range a.Ports {
				ports[p.Protocol]++
			}
		}
		for _, state := range []inventory.State{inventory.Alive, inventory.Dead, inventory.Unknown} {
			c.add("attachments", "Interfaces of containers on a network, by whether their namespace is there.", float64(states[state]),
				label{"network", n.Name}, label{"state", string(state)})
		}
		for _, protocol := range []string{"tcp", "udp"} {
			c.add("published_ports", "Host ports that lead to containers of a network, each family for itself.", float64(ports[protocol]),
				label{"network", n.Name}, label{"protocol", protocol})
		}
		c.add("received_bytes", "What the containers that are there now have received.", float64(traffic.RxBytes), label{"network", n.Name})
		c.add("sent_bytes", "What the containers that are there now have sent.", float64(traffic.TxBytes), label{"network", n.Name})
	}
}

// leaks counts what containers that are gone have left, by kind.
func (c *collector) leaks(snapshot *inventory.Snapshot) {
	counts := map[string]int{}
	known := map[string]bool{}
	for _, a := range snapshot.Attachments {
		known[a.Label()] = true
		if a.State != inventory.Dead {
			continue
		}
		for kind, is := range map[string]bool{"lease": a.Evidence.Lease, "record": a.Evidence.Record, "link": a.Evidence.Link} {
			if is {
				counts[kind]++
			}
		}
	}
	for _, e := range snapshot.Elements {
		isNetwork := strings.HasSuffix(e.Owner, "/")
		if e.Owner != "" && !isNetwork && !known[e.Owner] {
			counts["element"]++
		}
	}
	for _, kind := range []string{"element", "lease", "link", "record"} {
		c.add("leaks", "Things left by containers that are gone, until trestle gc frees them or an ADD needs them.", float64(counts[kind]), label{"kind", kind})
	}
}

// hosts counts the other hosts by way rather than listing them: there may be thousands.
func (c *collector) hosts(snapshot *inventory.Snapshot) {
	node := snapshot.Node
	if node == nil {
		return
	}
	ways := map[string]int{"direct": 0, "none": 0}
	missing := 0
	for _, p := range node.Peers {
		ways[node.WayTo(p)]++
		if p.Missing {
			missing++
		}
	}
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		c.add("peers", "Other hosts, by the way that leads to them.", float64(ways[way]), label{"way", way})
	}
	c.add("peers_missing", "Other hosts that the store no longer lists, without a proof that they are gone.", float64(missing))
	for _, state := range node.States() {
		c.add("node_state", "The state that trestle-node reports: 1 for the current one.", oneIf(node.State == state), label{"state", state})
	}
	c.add("node_running", "Whether trestle-node runs.", oneIf(node.Running))
	c.add("node_connected", "Whether trestle-node is connected to its store.", oneIf(node.Running && node.Store.Connected))
	c.add("node_repairs", "Kernel state that other programs changed and trestle-node repaired.", float64(node.Repairs))
	c.add("node_strangers_dropped_packets", "Packets of the tunnel that came from no peer.", float64(node.Strangers))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (c *collector) findings(found []doctor.Finding) {
	counts := map[string]int{}
	for _, f := range found {
		counts[f.Check]++
	}
	for _, name := range doctor.Names() {
		c.add("findings", "What trestle doctor has found, by its check.", float64(counts[name]), label{"check", name})
	}
}

// Write writes the samples in Prometheus' text format.
func Write(w io.Writer, samples []Sample) error {
	for first := 0; first < len(samples); {
		last := first
		for last < len(samples) && samples[last].Name == samples[first].Name {
			last++
		}
		if _, err := expfmt.MetricFamilyToText(w, family(samples[first:last])); err != nil {
			return err
		}
		first = last
	}
	return nil
}

// family makes a metric family of samples with one name; all are gauges.
func family(samples []Sample) *dto.MetricFamily {
	kind := dto.MetricType_GAUGE
	f := &dto.MetricFamily{Name: &samples[0].Name, Help: &samples[0].Help, Type: &kind}
	for _, s := range samples {
		m := &dto.Metric{Gauge: &dto.Gauge{Value: &s.Value}}
		for _, name := range s.names {
			value := s.Labels[name]
			m.Label = append(m.Label, &dto.LabelPair{Name: &name, Value: &value})
		}
		f.Metric = append(f.Metric, m)
	}
	return f
}
