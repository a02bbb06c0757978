package doctor

import (
	"context"
	"errors"
	"net/netip"
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

// Host is what the checks read.
type Host struct {
	*inventory.Snapshot
	// Programs are the files in the directories of plugins.
	Programs programs.All
	// Problems say what could not be read.
	Problems []string
	// Killed are the containers whose trestle run was killed, with the paths of their namespaces.
	Killed map[string]string

	plugins []string // the directories
	release string   // this command's
	files   []listFile
	// paths are directories and files that only root should be able to write.
	paths []trustedPath
	// answers are the answers of Trestle's plugins to STATUS.
	answers []statusAnswer
	// rules are the rules of every program, and referenceRules the reference plugins' that
	// name a container.
	rules          rules.Host
	referenceRules []referenceRule
	hasIPTables    bool
	// advertised are the links with a default route from router advertisements.
	advertised []string
	// udpPorts are the ports that programs have open.
	udpPorts []int
	sysctl   func(name string) (string, bool)
	systemd  bool
	leases   string // the default directory
	close    func()
}

// gatewayLink is the interface by which the host reaches the network's containers.
func (h *Host) gatewayLink(n inventory.Network) string {
	return h.GatewayLink(n.Bridge, func(p netip.Prefix) bool {
		return slices.ContainsFunc(n.Pools, func(pool inventory.Pool) bool { return pool.Subnet.Contains(p.Addr()) })
	})
}

// Close closes the socket by which checks read rules.
func (h *Host) Close() { h.close() }

// walk is rules.Walk. After an error, which goes to Problems, its result is uncertain (Maybe).
func (h *Host) walk(bases []rules.Base, packet rules.Packet) rules.Way {
	way, err := rules.Walk(bases, packet)
	h.problem(err)
	if err != nil {
		way.Maybe = true
	}
	return way
}

// leaseDir is the directory of the network's leases.
func (h *Host) leaseDir(n inventory.Network) string {
	if n.DataDir != "" {
		return n.DataDir
	}
	return h.leases
}

// Sources has the paths that Look reads, and this command's version.
type Sources struct {
	Lists   []string
	Plugins []string
	Records string
	Leases  string
	Release string
	// Killed are the containers whose trestle run was killed, with the paths of their namespaces.
	Killed map[string]string
}

// Look reads what the snapshot lacks.
func Look(ctx context.Context, snapshot *inventory.Snapshot, s Sources) *Host {
	h := &Host{Snapshot: snapshot, Killed: s.Killed, plugins: s.Plugins, release: s.Release, sysctl: readSysctl, leases: s.Leases}
	conn := nft.Open("")
	h.close = conn.Close
	var err error
	h.rules, err = rules.Read(conn)
	h.problem(err)
	h.referenceRules, err = readReferenceRules(h.rules)
	h.problem(err)
	h.hasIPTables = iptables.Installed(iptables.IPv4().Program)
	h.files, err = readLists(s.Lists)
	h.problem(err)
	h.Programs, err = programs.Read(s.Plugins)
	h.problem(err)
	h.Programs.Identify(ctx, h.pluginNames())
	h.paths = readPaths(s)
	h.answers = askStatus(ctx, h.files, h.Programs, s.Plugins)
	if snapshot.Node != nil {
		h.udpPorts, h.systemd = udpPorts(), runsSystemd()
	}
	h.advertised, err = advertised(snapshot)
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

// patience is how long to wait for a lock of leases; a process that holds it longer hangs.
const patience = 3 * time.Second

const sysctls = "/proc/sys/"

// readSysctl takes names with "/" as separator, since link names may contain dots.
func readSysctl(name string) (string, bool) {
	data, err := os.ReadFile(sysctls + name)
	return strings.TrimSpace(string(data)), err == nil
}

// setSysctl returns a fix that sets a sysctl.
func setSysctl(name, value string) func(context.Context, Tools) error {
	return func(context.Context, Tools) error { return os.WriteFile(sysctls+name, []byte(value), 0o644) }
}

// setLinkSysctl is setSysctl of a link, which may be gone by now: then there is nothing to set.
func setLinkSysctl(name, value string) func(context.Context, Tools) error {
	set := setSysctl(name, value)
	return func(ctx context.Context, tools Tools) error {
		if err := set(ctx, tools); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
}

// sysctlCommand is the command that does the same.
func sysctlCommand(name, value string) string { return "sysctl -w " + name + "=" + value }

// advertised lists the links with a default route from router advertisements.
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

// alive are the network's attachments that have an address and a host veth, and are not proved
// dead.
func (h *Host) alive(name string) []inventory.Attachment {
	var all []inventory.Attachment
	for _, a := range h.On(name) {
		if a.State != inventory.Dead && a.Evidence.Link && len(a.Addresses) > 0 {
			all = append(all, a)
		}
	}
	return all
}
