package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/cmd/trestle/runtimes"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/ipam"
)

type statusOptions struct{ *app }

func newStatusCommand(a *app) *cobra.Command {
	o := statusOptions{app: a}
	return &cobra.Command{
		Use:   "status",
		Short: "Say whether the host's network is Trestle's",
		Long: `Say whether the host's network is Trestle's: from which directories each runtime, by its
configuration, takes plugins and lists, which suite and version these plugins are;
which suite made the containers' networks; and what the next container will get. It
looks at containerd, CRI-O, podman and nerdctl, if installed, and at trestle itself.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return o.run(command.Context(), a.printer(command)) },
	}
}

// hostStatus is the command's answer.
type hostStatus struct {
	// Trestle is "yes", "partly" or "no".
	Trestle  string          `json:"trestle"`
	Release  string          `json:"release"`
	Runtimes []runtimeStatus `json:"runtimes"`
	// Made counts the live attachments by suite; Others are those that Trestle did not make.
	Made   map[programs.Suite]int `json:"made"`
	Others []string               `json:"others,omitempty"`
}

// runtimeStatus is a runtime, and what its next container gets.
type runtimeStatus struct {
	runtimes.Runtime
	// Programs are the plugins of its default network, as it finds them.
	Programs []programs.Program `json:"programs"`
	// Missing are plugins of that network which it does not find.
	Missing []string `json:"missing,omitempty"`
	Next    *next    `json:"next,omitempty"`
}

// next is the network of the next container.
type next struct {
	Network       string   `json:"network"`
	File          string   `json:"file"`
	Bridge        string   `json:"bridge,omitempty"`
	Subnets       []string `json:"subnets,omitempty"`
	Free          []uint64 `json:"free,omitempty"` // addresses, of each subnet
	Masquerade    bool     `json:"masquerade"`
	Ports         bool     `json:"ports"`
	IngressPolicy string   `json:"ingressPolicy,omitempty"`
}

func (o statusOptions) run(ctx context.Context, p *ui.Printer) error {
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	all, problems := runtimes.All(ctx)
	if problems != nil {
		p.Notef("trestle: %v", problems)
	}
	all = append(all, runtimes.Runtime{Name: "trestle", Version: release, Plugins: o.plugins, Lists: o.lists})
	status := hostStatus{Release: release, Made: map[programs.Suite]int{}}
	for _, r := range all {
		one, err := lookAt(ctx, r, snapshot)
		if err != nil {
			p.Notef("trestle: %v", err)
		}
		status.Runtimes = append(status.Runtimes, one)
	}
	status.count(snapshot)
	status.decide()
	if p.JSON {
		return p.Document(status)
	}
	return status.print(p)
}

// lookAt finds the runtime's default network, and the plugins for it.
func lookAt(ctx context.Context, r runtimes.Runtime, snapshot *inventory.Snapshot) (runtimeStatus, error) {
	s := runtimeStatus{Runtime: r, Programs: []programs.Program{}}
	if r.Without != "" {
		return s, nil
	}
	lists, listErr := network.Read(r.Lists)
	installed, err := programs.Read(r.Plugins)
	list, ok := defaultList(r, lists)
	names := []string{"bridge"} // if there is no network yet
	if ok {
		facts, _ := list.Facts() // trestle validate reports mistakes
		names = list.Programs()
		s.Next = nextOf(list, facts)
		s.Next.Subnets, s.Next.Free = freeOf(list, facts, snapshot)
	}
	installed.Identify(ctx, names)
	for _, name := range names {
		if program, found := installed.Find(name); found {
			s.Programs = append(s.Programs, program)
		} else if ok {
			s.Missing = append(s.Missing, name)
		}
	}
	return s, errors.Join(listErr, err)
}

// defaultList is the list of the network that a container gets by default.
func defaultList(r runtimes.Runtime, lists []network.List) (network.List, bool) {
	if r.Network != "" {
		return network.Find(lists, r.Network)
	}
	if len(lists) == 0 {
		return network.List{}, false
	}
	return lists[0], true
}

func nextOf(list network.List, facts network.Facts) *next {
	return &next{
		Network:       list.Name,
		File:          list.File,
		Bridge:        facts.Bridge,
		Masquerade:    facts.Masquerade,
		Ports:         facts.Ports,
		IngressPolicy: facts.IngressPolicy,
	}
}

// freeOf returns the list's subnets, and how many addresses of each are free.
func freeOf(list network.List, facts network.Facts, snapshot *inventory.Snapshot) (subnets []string, addresses []uint64) {
	if n, ok := snapshot.NetworkOf(list.Name); ok && n.File == list.File { // counted already
		for _, pool := range n.Pools {
			subnets = append(subnets, pool.Subnet.String())
			if pool.Unread {
				continue
			}
			addresses = append(addresses, pool.Free()+min(pool.Dead, pool.Used))
		}
		return subnets, addresses
	}
	store, isOurs, err := list.Store()
	if err != nil || !isOurs {
		return nil, nil
	}
	leases, err := store.Leases()
	if err != nil {
		return nil, nil // not root
	}
	for _, u := range ipam.Count(facts.Sets, leases) {
		subnets = append(subnets, u.Range.Subnet.String())
		addresses = append(addresses, u.Size-min(u.Used-min(u.Dead, u.Used), u.Size))
	}
	return subnets, addresses
}

func (s *hostStatus) count(snapshot *inventory.Snapshot) {
	for _, a := range snapshot.Attachments {
		switch {
		case a.State == inventory.Dead:
		case a.ByTrestle:
			s.Made[programs.Trestle]++
		default:
			s.Made[programs.Other]++
			s.Others = append(s.Others, a.Label())
		}
	}
}

// suite is the suite of the runtime's plugins, "mixed", or "" if it has none.
func (r runtimeStatus) suite() programs.Suite {
	var suite programs.Suite
	for _, program := range r.Programs {
		switch {
		case suite == "":
			suite = program.Suite
		case suite != program.Suite:
			return "mixed"
		}
	}
	return suite
}

// decide sets Trestle: "yes" if no runtime and no container uses another suite.
func (s *hostStatus) decide() {
	ours, others := s.Made[programs.Trestle] > 0, len(s.Others) > 0
	for _, r := range s.Runtimes {
		switch suite := r.suite(); {
		case r.Without != "" || suite == "":
		case suite == programs.Trestle:
			ours = true
		case suite == "mixed":
			ours, others = true, true
		default:
			others = true
		}
	}
	switch {
	case ours && !others:
		s.Trestle = "yes"
	case ours:
		s.Trestle = "partly"
	default:
		s.Trestle = "no"
	}
}

func (s *hostStatus) print(p *ui.Printer) error {
	words := map[string]string{"yes": "Trestle's", "partly": "Trestle's only in part", "no": "not Trestle's"}
	tones := map[string]ui.Tone{"yes": ui.Good, "partly": ui.Warning, "no": ui.Warning}
	p.Printf("The network of this host is %s.\n\n", p.Paint(tones[s.Trestle], words[s.Trestle]))
	t := ui.Table{Columns: []ui.Column{
		{Title: "RUNTIME"},
		{Title: "PLUGINS FROM", Least: 12},
		{Title: "SUITE"},
		{Title: "LISTS FROM", Least: 12},
		{Title: "NEXT NETWORK", Least: 12},
		{Title: "SUBNET", Least: 12},
		{Title: "FREE", Right: true},
	}}
	for _, r := range s.Runtimes {
		row := []string{strings.TrimSpace(r.Name + "\n" + r.Version), r.dirs(), r.suiteText(), ui.List(r.Lists...), "", "", ""}
		if r.Next != nil {
			var free []string
			for _, n := range r.Next.Free {
				free = append(free, count(n))
			}
			row[4], row[5], row[6] = r.Next.text(), ui.List(r.Next.Subnets...), ui.List(free...)
		}
		t.Add(row...)
	}
	if err := p.Table(t); err != nil {
		return err
	}
	p.Printf("\nattachments made by Trestle: %d, by others: %d", s.Made[programs.Trestle], len(s.Others))
	if len(s.Others) > 0 {
		p.Printf(" (%s)", sentence(s.Others))
	}
	p.Printf("\n")
	return nil
}

// dirs are the directories of the plugins or, if there are none, those that are searched.
func (r runtimeStatus) dirs() string {
	var dirs []string
	for _, program := range r.Programs {
		if dir := strings.TrimSuffix(program.Path, "/"+program.Name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return ui.List(r.Plugins...)
	}
	return ui.List(dirs...)
}

func (r runtimeStatus) suiteText() string {
	var lines []string
	for _, program := range r.Programs {
		if line := program.Label(); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	if len(r.Missing) > 0 {
		lines = append(lines, "missing: "+strings.Join(r.Missing, ", "))
	}
	switch {
	case r.Without != "":
		return "none: " + r.Without
	case len(lines) == 0:
		return "no plugins"
	}
	return ui.List(lines...)
}

// text describes the network without its addresses.
func (n *next) text() string {
	lines := []string{n.Network}
	if n.Bridge != "" {
		lines = append(lines, "bridge "+n.Bridge)
	}
	if n.Masquerade {
		lines = append(lines, "masquerade")
	}
	if n.Ports {
		lines = append(lines, "ports")
	}
	if n.IngressPolicy != "" {
		lines = append(lines, "ingress "+n.IngressPolicy)
	}
	return fmt.Sprint(ui.List(lines...))
}
