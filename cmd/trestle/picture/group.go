package picture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Group is members of a segment that people think of together.
type Group struct {
	// Name is a namespace of pods or a network; empty where there is but one group.
	Name    string
	Members []Member
}

// Groups are the segment's members by the namespace of their pods, or else by their
// networks, in order.
func (s Segment) Groups() []Group {
	byNetwork := len(s.Networks) > 1
	byPod := slices.ContainsFunc(s.Members, func(m Member) bool { return m.Pod != "" })
	at := map[string]int{}
	var groups []Group
	for _, m := range s.Members {
		name := ""
		switch namespace, _, isPod := strings.Cut(m.Pod, "/"); {
		case byPod && isPod:
			name = namespace
		case byPod:
			name = "no pod"
		case byNetwork:
			name = m.Network
		}
		if _, ok := at[name]; !ok {
			at[name] = len(groups)
			groups = append(groups, Group{Name: name})
		}
		groups[at[name]].Members = append(groups[at[name]].Members, m)
	}
	if len(groups) == 1 {
		groups[0].Name = ""
	}
	slices.SortStableFunc(groups, func(x, y Group) int { return strings.Compare(x.Name, y.Name) })
	return groups
}

// summary is many members in a few words: from which address to which, how many of them
// are dead or publish ports.
func summary(members []Member) string {
	var dead, publish int
	first, last := "", ""
	for _, m := range members {
		if m.State == inventory.Dead {
			dead++
		}
		if len(m.Published) > 0 {
			publish++
		}
		if len(m.Addresses) == 0 {
			continue
		}
		if last = m.Addresses[0].String(); first == "" {
			first = last
		}
	}
	var words []string
	if first != "" {
		words = append(words, first+" … "+last)
	}
	if dead > 0 {
		words = append(words, fmt.Sprintf("%d dead", dead))
	}
	if publish > 0 {
		words = append(words, fmt.Sprintf("%d with ports", publish))
	}
	return strings.Join(words, ", ")
}
