package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// statusAnswer is the answer of one of Trestle's plugins to STATUS.
type statusAnswer struct {
	File, Network, Plugin string
	Err                   error
	// Full says that it is an error only because the pool is full (statusWhenFull).
	Full bool
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
			a := statusAnswer{File: f.Path, Network: f.List.Name, Plugin: p.Name}
			a.Full, a.Err = status(plugin.Bytes, func(config []byte) error { return p.Status(ctx, f.List.Name, config, path) })
			answers = append(answers, a)
		}
	}
	return answers
}

// status asks with the configuration. After an error it asks again without ipam.statusWhenFull,
// if that has the key: full says that there is no other error.
func status(config []byte, ask func(config []byte) error) (full bool, err error) {
	err = ask(config)
	without, asked := withoutWhenFull(config)
	if err == nil || !asked {
		return false, err
	}
	if other := ask(without); other != nil {
		return false, other
	}
	return true, err
}

// withoutWhenFull is the configuration without ipam.statusWhenFull; asked is false if it has no
// such key.
func withoutWhenFull(config []byte) (without []byte, asked bool) {
	var keys map[string]json.RawMessage
	if json.Unmarshal(config, &keys) != nil {
		return nil, false
	}
	for name, value := range keys {
		var ipam map[string]json.RawMessage
		if !strings.EqualFold(name, "ipam") || json.Unmarshal(value, &ipam) != nil {
			continue
		}
		for key := range ipam {
			if strings.EqualFold(key, "statusWhenFull") {
				delete(ipam, key)
				asked = true
			}
		}
		keys[name], _ = json.Marshal(ipam) // it was JSON
	}
	without, err := json.Marshal(keys)
	return without, asked && err == nil
}

// saysFull says whether STATUS of the network fails only because its pool is full.
func (h *Host) saysFull(network string) bool {
	return slices.ContainsFunc(h.answers, func(a statusAnswer) bool { return a.Network == network && a.Full })
}

// statuses finds what the plugins themselves report: missing kernel features, disabled
// IPv6, missing programs and directories. That a pool is full is said by pools.
func statuses(h *Host) []Finding {
	var all []Finding
	for _, a := range h.answers {
		if a.Err != nil && !(a.Full && h.hasFullPool(a.Network)) {
			all = append(all, Finding{
				Severity: Fault,
				Subject:  "network " + a.Network,
				Text:     fmt.Sprintf("no container can be attached; plugin %s says: %v", a.Plugin, a.Err),
				Command:  a.command(),
			})
		}
	}
	return all
}

// command is what to look at next. A host that lacks something says so in the error, with the way
// out; its list has no mistake that could be found.
func (a statusAnswer) command() string {
	var answer *types.Error
	if errors.As(a.Err, &answer) && answer.Code == uint(cni.CodeUnavailable) {
		return ""
	}
	return "trestle validate " + a.File
}
