package doctor

import (
	"context"
	"fmt"

	"github.com/trestle-cni/trestle/cmd/trestle/programs"
)

// statusAnswer is the answer of one of Trestle's plugins to STATUS.
type statusAnswer struct {
	File, Network, Plugin string
	Err                   error
}

// askStatus runs STATUS, which changes nothing, of each of our plugins in each list; but for a
// list that no runtime accepts and a plugin whose IPAM plugin is missing, which could only repeat
// what network-list finds.
func askStatus(ctx context.Context, files []listFile, all programs.All, path []string) []statusAnswer {
	var answers []statusAnswer
	for _, f := range files {
		if f.List == nil || len(refusals(*f.List)) > 0 {
			continue
		}
		for _, plugin := range f.List.Plugins {
			p, ok := all.Find(plugin.Network.Type)
			if !ok || p.Suite != programs.Trestle || !p.Executable {
				continue
			}
			if ipam := plugin.Network.IPAM.Type; ipam != "" {
				if _, ok := all.Find(ipam); !ok {
					continue
				}
			}
			err := p.Status(ctx, f.List.Name, plugin.Bytes, path)
			answers = append(answers, statusAnswer{f.Path, f.List.Name, p.Name, err})
		}
	}
	return answers
}

// statuses finds what the plugins themselves report: missing kernel features, disabled
// IPv6, missing programs and directories.
func statuses(h *Host) []Finding {
	var all []Finding
	for _, a := range h.answers {
		if a.Err != nil {
			all = append(all, Finding{
				Severity: Fault,
				Subject:  "network " + a.Network,
				Text:     fmt.Sprintf("no container can be attached; plugin %s says: %v", a.Plugin, a.Err),
				Command:  "trestle validate " + a.File,
			})
		}
	}
	return all
}
