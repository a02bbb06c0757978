package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/programs"
)

// plugins finds plugins in use of two suites, or of another release than this command's: one
// does not always find what the other made. It also finds plugins that are not executable.
func plugins(h *Host) []Finding {
	inUse := h.pluginsInUse()
	bySuite := map[programs.Suite][]string{}
	versions := map[string][]string{}
	for _, p := range inUse {
		bySuite[p.Suite] = append(bySuite[p.Suite], p.Path)
		if p.Suite == programs.Trestle {
			versions[p.Version] = append(versions[p.Version], p.Path)
		}
	}
	var all []Finding
	if ours, others := bySuite[programs.Trestle], bySuite[programs.Reference]; len(ours) > 0 && len(others) > 0 {
		all = append(all, Finding{
			Severity: Warning, Subject: filepath.Dir(others[0]),
			Text:    fmt.Sprintf("plugins of two suites are in use: %s are the reference plugins', the others Trestle's", strings.Join(others, ", ")),
			Command: "make install PREFIX=" + filepath.Dir(others[0]),
		})
	}
	for version, paths := range versions {
		if version == h.release || h.release == "" {
			continue
		}
		all = append(all, Finding{
			Severity: Warning, Subject: paths[0],
			Text:    fmt.Sprintf("%s of release %s, and trestle is of %s", sentence(paths), version, h.release),
			Command: "make install PREFIX=" + filepath.Dir(paths[0]),
		})
	}
	for _, p := range inUse {
		if !p.Executable {
			all = append(all, Finding{
				Severity: Fault, Subject: p.Path, Text: "it is not executable: every call of it fails",
				Command: "chmod 755 " + p.Path, fix: changeMode(p.Path, 0o755),
			})
		}
	}
	return all
}

// pluginsInUse are the programs that runtimes execute for the lists' plugins.
func (h *Host) pluginsInUse() programs.All {
	var all programs.All
	for _, name := range h.pluginNames() {
		if p, ok := h.Programs.Find(name); ok {
			all = append(all, p)
		}
	}
	return all
}

// pluginNames are the names of the plugins that the lists need, each once.
func (h *Host) pluginNames() []string {
	var names []string
	for _, f := range h.files {
		if f.List != nil {
			names = append(names, f.List.Programs()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sentence is the beginning of a sentence: "a is", "a and 2 more are".
func sentence(paths []string) string {
	slices.Sort(paths)
	if len(paths) == 1 {
		return paths[0] + " is"
	}
	return fmt.Sprintf("%s and %d more are", paths[0], len(paths)-1)
}
