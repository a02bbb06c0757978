package picture

import (
	"encoding/json"
	"html/template"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Report has everything that is needed to find a fault without access to the host.
type Report struct {
	// Time is when the host was read, for people.
	Time string `json:"time"`
	// Facts are versions and the like, as name and value. They are not masked.
	Facts [][2]string `json:"facts"`
	// Findings are nil if no checks were run.
	Findings []Finding `json:"findings"`
	Topology Topology  `json:"topology"`
	Pools    []PoolMap `json:"pools"`
	Ports    []Port    `json:"ports"`
	Routes   []Route   `json:"routes"`
	Lists    []List    `json:"lists"`
	// Problems say what could not be read.
	Problems []string `json:"problems"`
	Masked   bool     `json:"masked"`
}

// Finding is one of doctor's findings.
type Finding struct {
	Severity string `json:"severity"`
	Check    string `json:"check"`
	Subject  string `json:"subject"`
	Text     string `json:"text"`
	Command  string `json:"command,omitempty"`
}

// Port is a mapped port and its holder.
type Port struct {
	Host      string          `json:"host"`
	Protocol  string          `json:"protocol"`
	Container string          `json:"container"`
	Name      string          `json:"name"`
	Network   string          `json:"network"`
	Backend   string          `json:"backend"`
	State     inventory.State `json:"state"`
}

// Route is one of the host's routes, as text.
type Route struct {
	To      string `json:"to"`
	Gateway string `json:"gateway"`
	Link    string `json:"link"`
	Metric  int    `json:"metric"`
}

// List is a network list's file.
type List struct {
	File    string `json:"file"`
	Content string `json:"content"`
}

// MarshalJSON has empty lists where r has none.
func (r Report) MarshalJSON() ([]byte, error) {
	type plain Report
	r.Facts, r.Findings, r.Pools, r.Ports = list(r.Facts), list(r.Findings), list(r.Pools), list(r.Ports)
	r.Routes, r.Lists, r.Problems = list(r.Routes), list(r.Lists), list(r.Problems)
	return json.Marshal(plain(r))
}

// NewReport reports on the snapshot; the caller adds facts, findings and lists.
func NewReport(s *inventory.Snapshot) Report {
	r := Report{Time: s.Time.Format(timeLayout), Topology: NewTopology(s), Pools: NewPoolMaps(s), Problems: s.Problems}
	for _, a := range s.Attachments {
		for _, p := range a.Ports {
			r.Ports = append(r.Ports, Port{p.Host.String(), p.Protocol, p.Container.String(), a.Called(), a.Network, p.Backend, a.State})
		}
	}
	for _, route := range s.Routes {
		one := Route{To: route.To.String(), Link: route.Link, Metric: route.Metric}
		if route.Gateway.IsValid() {
			one.Gateway = route.Gateway.String()
		}
		r.Routes = append(r.Routes, one)
	}
	return r
}

// Mask is the report with all addresses masked, also those within names and texts.
func (r Report) Mask(m *Masker) (Report, error) {
	facts := r.Facts
	hidden, err := masked(m, r)
	hidden.Facts, hidden.Masked, hidden.Time = facts, true, r.Time
	return hidden, err
}

// Page is the report as a page for a browser.
func (r Report) Page() (string, error) {
	remark := r.Topology.Counts.String()
	if r.Masked {
		remark += "; addresses are masked"
	}
	return render(page{Title: "Trestle report", Remark: remark, Time: r.Time, Viewer: newViewer(r.Topology), Report: &r})
}

// Looked says whether checks were run.
func (r Report) Looked() bool { return r.Findings != nil }

// PoolsSVG is the picture of the pools.
func (r Report) PoolsSVG() template.HTML { return template.HTML(PoolsSVG(r.Pools)) }

// Interfaces are the links that do not belong to attachments, in one list.
func (r Report) Interfaces() []Interface {
	all := slices.Clone(r.Topology.Uplinks)
	for _, s := range r.Topology.Segments {
		if s.Bridge != nil {
			all = append(all, *s.Bridge)
		}
		all = append(all, s.Ports...)
	}
	all = append(all, r.Topology.Others...)
	for i := 0; i < len(all); i++ {
		all = slices.Insert(all, i+1, all[i].Below...)
	}
	return all
}
