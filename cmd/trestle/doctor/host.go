package doctor

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// Host is what the checks look at.
type Host struct {
	*inventory.Snapshot
	// Rules are those of every program.
	Rules rules.Host
	// ReferenceRules are those of the reference plugins that name a container.
	ReferenceRules []ReferenceRule
	Files          []ListFile
	// Programs are what stands in the directories of plugins, Plugins.
	Programs programs.All
	Plugins  []string
	// HasIPTables says that its programs are installed.
	HasIPTables bool
	// Release is this command's version.
	Release string
	// Paths are directories and files that only root may write.
	Paths []Path
	// Answers are what Trestle's plugins say to STATUS.
	Answers []Status
	// Advertised are the links by which a router has announced a default route.
	Advertised []string
	// UDPPorts are those that programs of the host have.
	UDPPorts []int
	// Problems say what could not be looked at.
	Problems []string

	sysctl  func(name string) (string, bool)
	systemd bool
	leases  string
	close   func()
}

// Close ends the reading of rules, which are looked up when a check comes to them.
func (h *Host) Close() { h.close() }

// walk is rules.Walk; what cannot be read is among the problems.
func (h *Host) walk(bases []rules.Base, packet rules.Packet) rules.Way {
	way, err := rules.Walk(bases, packet)
	h.problem(err)
	if err != nil {
		way.Maybe = true
	}
	return way
}

// leaseDir is where the network's leases are.
func (h *Host) leaseDir(n inventory.Network) string {
	if n.DataDir != "" {
		return n.DataDir
	}
	return h.leases
}

// Sources say where things are kept.
type Sources struct {
	Lists   []string
	Plugins []string
	Records string
	Leases  string
	Release string
}

// Look reads what the snapshot does not have.
func Look(ctx context.Context, snapshot *inventory.Snapshot, s Sources) *Host {
	h := &Host{Snapshot: snapshot, Plugins: s.Plugins, Release: s.Release, sysctl: readSysctl, leases: s.Leases}
	conn := nft.Open("")
	h.close = conn.Close
	var err error
	h.Rules, err = rules.Read(conn)
	h.problem(err)
	h.ReferenceRules, err = readReferenceRules(h.Rules)
	h.problem(err)
	h.HasIPTables = iptables.Installed(iptables.IPv4().Program)
	h.Files, err = readLists(s.Lists)
	h.problem(err)
	h.Programs, err = programs.Read(s.Plugins)
	h.problem(err)
	h.Programs.Identify(ctx, h.pluginNames())
	h.Paths = readPaths(s)
	h.Answers = askStatus(ctx, h.Files, h.Programs, s.Plugins)
	if snapshot.Node != nil {
		h.UDPPorts, h.systemd = udpPorts(), runsSystemd()
	}
	h.Advertised, err = advertised(snapshot)
	h.problem(err)
	return h
}

func (h *Host) problem(err error) {
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.Contains(h.Problems, line) {
			h.Problems = append(h.Problems, line)
		}
	}
}

// patience is how long a lock of leases is waited for: who holds it longer is stuck.
const patience = 3 * time.Second

const sysctls = "/proc/sys/"

// readSysctl takes names with "/" where a link's own has a dot.
func readSysctl(name string) (string, bool) {
	data, err := os.ReadFile(sysctls + name)
	return strings.TrimSpace(string(data)), err == nil
}

// setSysctl is a fix.
func setSysctl(name, value string) func(context.Context, Tools) error {
	return func(context.Context, Tools) error { return os.WriteFile(sysctls+name, []byte(value), 0o644) }
}

// sysctlCommand is that by hand.
func sysctlCommand(name, value string) string { return "sysctl -w " + name + "=" + value }

// advertised asks for the routes that router advertisements made.
func advertised(snapshot *inventory.Snapshot) ([]string, error) {
	filter := &netlink.Route{Protocol: unix.RTPROT_RA}
	routes, err := dump.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range routes {
		for _, l := range snapshot.Links {
			if l.Index == r.LinkIndex && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
				names = append(names, l.Name)
			}
		}
	}
	return names, nil
}

// alive are the attachments of a network that have not been proved dead, with at least
// one address; each of them has a link on the host.
func (h *Host) alive(name string) []inventory.Attachment {
	var all []inventory.Attachment
	for _, a := range h.On(name) {
		if a.State != inventory.Dead && a.Evidence.Link && len(a.Addresses) > 0 {
			all = append(all, a)
		}
	}
	return all
}
