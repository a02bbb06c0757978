package validate

import (
	"fmt"

	"github.com/trestle-cni/trestle/pkg/ipam"
)

// together finds conflicts between two lists.
func together(files []*file) {
	for i, f := range files {
		first := true // of its name, which runtimes use; only that one is named to the others
		for _, earlier := range files[:i] {
			switch {
			case f.list == nil || earlier.list == nil:
			case f.list.Name != earlier.list.Name:
				overlap(f, earlier)
			case first:
				f.on("name", "%q is also the name of %s, and runtimes use that one", f.list.Name, earlier.name)
				first = false
			}
		}
	}
}

func overlap(f, earlier *file) {
	mine, err := f.list.Facts()
	theirs, otherErr := earlier.list.Facts()
	if err != nil || otherErr != nil {
		return // the plugin reports it
	}
	for i, set := range mine.Sets {
		for j, r := range set {
			other, ok := overlapping(r, theirs.Sets)
			if !ok {
				continue
			}
			path := fmt.Sprintf("plugins[0].ipam.ranges[%d][%d].subnet", i, j)
			f.on(path, "%s overlaps with %s of network %s (%s): two containers may get the same address", r.Subnet, other.Subnet, earlier.list.Name, earlier.name)
		}
	}
}

func overlapping(r ipam.Range, sets []ipam.Set) (ipam.Range, bool) {
	for _, set := range sets {
		for _, other := range set {
			if r.Subnet.Overlaps(other.Subnet) {
				return other, true
			}
		}
	}
	return ipam.Range{}, false
}
