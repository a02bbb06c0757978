package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
)

// listFile is a file in a directory of network lists.
type listFile struct {
	Path string
	List *network.List
	Err  error
}

func readLists(dirs []string) ([]listFile, error) {
	files, err := network.Files(dirs)
	var all []listFile
	for _, file := range files {
		f := listFile{Path: file}
		if list, err := network.ReadFile(file); err != nil {
			f.Err = err
		} else {
			f.List = &list
		}
		all = append(all, f)
	}
	return all, err
}

// networkLists finds files that no runtime accepts, and networks to which no container
// can be attached.
func networkLists(h *Host) []Finding {
	var all []Finding
	first := map[string]string{}
	for _, f := range h.files {
		if f.Err != nil {
			all = append(all, Finding{
				Severity: Fault, Subject: f.Path,
				Text:    fmt.Sprintf("no runtime accepts this file: %v", f.Err),
				Command: "trestle validate " + f.Path,
			})
			continue
		}
		for _, text := range refusals(*f.List) {
			all = append(all, Finding{Severity: Fault, Subject: f.Path, Text: text, Command: "trestle validate " + f.Path})
		}
		if other, twice := first[f.List.Name]; twice {
			all = append(all, Finding{
				Severity: Fault, Subject: f.Path,
				Text:    fmt.Sprintf("network %q is also in %s, and runtimes use that one", f.List.Name, other),
				Command: "mv " + f.Path + " " + f.Path + ".off",
			})
			continue
		}
		first[f.List.Name] = f.Path
		all = append(all, h.missingPlugins(f)...)
	}
	return all
}

// refusals are the errors that a runtime would give at the first ADD.
func refusals(l network.List) []string {
	var all []string
	if err := utils.ValidateNetworkName(l.Name); err != nil {
		all = append(all, fmt.Sprintf("name: %q: no runtime accepts this name; use letters and digits, with . _ - between them", l.Name))
	}
	if len(l.Plugins) == 0 {
		all = append(all, "plugins: the list is empty")
	}
	if !slices.Contains(version.All.SupportedVersions(), l.CNIVersion) {
		all = append(all, fmt.Sprintf("cniVersion: %q is not a version of CNI; use one of %s", l.CNIVersion, strings.Join(version.All.SupportedVersions(), ", ")))
	}
	return all
}

func (h *Host) missingPlugins(f listFile) []Finding {
	var all []Finding
	for _, name := range f.List.Programs() {
		if _, there := h.Programs.Find(name); there {
			continue
		}
		all = append(all, Finding{
			Severity: Fault, Subject: f.Path,
			Text:    fmt.Sprintf("plugin %q is not in %s: every attachment to network %s fails", name, strings.Join(h.plugins, ", "), f.List.Name),
			Command: "make install PREFIX=" + first(h.plugins),
		})
	}
	return all
}

func first(dirs []string) string {
	if len(dirs) == 0 {
		return "/opt/cni/bin"
	}
	return filepath.Clean(dirs[0])
}
