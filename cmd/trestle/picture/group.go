package picture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// group is a part of a segment's members that belong together.
type group struct {
	// Name is a namespace of pods or a network; "" if there is only one group.
	Name    string
	Members []Member
}

// groups are the segment's members, grouped by the namespace of their pods or else by network,
// sorted.
func (s Segment) groups() []group {
	byNetwork := len(s.Networks) > 1
	byPod := slices.ContainsFunc(s.Members, func(m Member) bool { return m.Pod != "" })
	at := map[string]int{}
	var groups []group
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
			groups = append(groups, group{Name: name})
		}
		groups[at[name]].Members = append(groups[at[name]].Members, m)
	}
	if len(groups) == 1 {
		groups[0].Name = ""
	}
	slices.SortStableFunc(groups, func(x, y group) int { return strings.Compare(x.Name, y.Name) })
	return groups
}

// summary describes many members: the first and last address, how many are dead, and how many
// publish ports.
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
