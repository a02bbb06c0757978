package host

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"
)

// Dump is the state that plugins change, as lines in a fixed order, each of
// which tells by its first word what it is about: link, address, route, rule,
// neighbour, fdb, nft, iptables, sysctl and, for the Host, file (below /run,
// /etc/cni and /var/lib/cni, network namespaces left out). Two dumps differ only
// where the state differs: no counters, indexes, timers, carriers or learned
// entries, and nothing that the kernel derives from the rest by and by.
func (n *Namespace) Dump() string {
	n.t.Helper()
	var lines []string
	for _, part := range []struct {
		what string
		dump func() ([]string, error)
	}{
		{"link", n.links},
		{"address", n.addresses},
		{"route", n.routes},
		{"rule", n.rules},
		{"neighbour", n.neighbours},
		{"fdb", n.fdb},
		{"nft", n.nft},
		{"iptables", n.iptables},
		{"sysctl", n.sysctls},
	} {
		found, err := part.dump()
		if err != nil {
			n.t.Fatalf("dump %s of %s: %v", part.what, n.Name, err)
		}
		for _, line := range found {
			lines = append(lines, part.what+" "+line)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// Dump is Namespace.Dump and the files, without empty lock files: those have to
// stay, since nobody can tell whether another process is about to lock one.
func (h *Host) Dump() string {
	h.t.Helper()
	var lines []string
	err := h.Do(func() (err error) {
		lines, err = files("/run", "/etc/cni", "/var/lib/cni")
		return err
	})
	if err != nil {
		h.t.Fatalf("dump files of %s: %v", h.Name, err)
	}
	return h.Namespace.Dump() + strings.Join(lines, "")
}

// AssertUnchanged fails the test where the dump differs from an earlier one, and
// shows how. Lines that begin with one of ignore may differ.
func (n *Namespace) AssertUnchanged(before string, ignore ...string) {
	n.t.Helper()
	n.assertSame(before, n.Dump(), ignore)
}

// AssertUnchanged is Namespace.AssertUnchanged, files included.
func (h *Host) AssertUnchanged(before string, ignore ...string) {
	h.t.Helper()
	h.assertSame(before, h.Dump(), ignore)
}

func (n *Namespace) assertSame(before, after string, ignore []string) {
	n.t.Helper()
	if diff := Diff(before, after, ignore...); diff != "" {
		n.t.Errorf("%s is not as it was (-before +after):\n%s", n.Name, diff)
	}
}

// Diff is the lines that differ between two dumps, those that begin with one of
// ignore left out; "" where none does.
func Diff(before, after string, ignore ...string) string {
	keep := func(dump string) []string {
		return slices.DeleteFunc(strings.Split(dump, "\n"), func(line string) bool {
			return slices.ContainsFunc(ignore, func(prefix string) bool { return strings.HasPrefix(line, prefix) })
		})
	}
	var diff lineDiff
	gocmp.Equal(keep(before), keep(after), gocmp.Reporter(&diff))
	return strings.Join(diff.lines, "\n")
}

// lineDiff reports differing lines in full; go-cmp's own report shortens them.
type lineDiff struct {
	path  gocmp.Path
	lines []string
}

func (d *lineDiff) PushStep(step gocmp.PathStep) { d.path = append(d.path, step) }
func (d *lineDiff) PopStep()                     { d.path = d.path[:len(d.path)-1] }

func (d *lineDiff) Report(result gocmp.Result) {
	if result.Equal() {
		return
	}
	before, after := d.path.Last().Values()
	if before.IsValid() {
		d.lines = append(d.lines, "- "+before.String())
	}
	if after.IsValid() {
		d.lines = append(d.lines, "+ "+after.String())
	}
}

// ifIndexes are the ends of names that differ from time to time ("eth0@if12").
var ifIndexes = regexp.MustCompile(`@if\d+`)

// show runs a command and returns the lines that it printed.
func (n *Namespace) show(args ...string) ([]string, error) {
	output, err := n.Run(Command{Args: args})
	if err != nil {
		return nil, err
	}
	if output.Code != 0 {
		return nil, fmt.Errorf("%s: exit status %d: %s", strings.Join(args, " "), output.Code, output.Stderr)
	}
	var lines []string
	for line := range strings.SplitSeq(ifIndexes.ReplaceAllString(output.Stdout, ""), "\n") {
		if line = strings.TrimRight(line, " \t"); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// showSorted is show for commands whose order is the kernel's.
func (n *Namespace) showSorted(commands ...[]string) ([]string, error) {
	var all []string
	for _, command := range commands {
		lines, err := n.show(command...)
		if err != nil {
			return nil, err
		}
		slices.Sort(lines)
		all = append(all, lines...)
	}
	return all, nil
}

// object is a JSON object of iproute2.
type object = map[string]any

func (n *Namespace) showJSON(args ...string) ([]object, error) {
	lines, err := n.show(args...)
	if err != nil {
		return nil, err
	}
	var objects []object
	if err := json.Unmarshal([]byte(strings.Join(lines, "")), &objects); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	// iproute2 prints an empty object for each thing that its filter left out.
	objects = slices.DeleteFunc(objects, func(o object) bool { return o["ifname"] == nil })
	slices.SortFunc(objects, func(a, b object) int {
		return cmp.Compare(fmt.Sprint(a["ifname"]), fmt.Sprint(b["ifname"]))
	})
	return objects, nil
}

// The attributes that Dump shows, all of them settings: the rest are ids,
// timers, counters, or follow from these.
var (
	linkAttributes = []string{
		"ifalias", "address", "flags", "mtu", "master", "qdisc", "promiscuity", "allmulti",
		"inet6_addr_gen_mode", "num_tx_queues", "num_rx_queues", "gso_max_size", "gro_max_size", "group", "altnames",
	}
	bridgeAttributes = []string{
		"forward_delay", "hello_time", "max_age", "ageing_time", "stp_state", "priority", "vlan_filtering", "vlan_protocol",
		"vlan_default_pvid", "group_fwd_mask", "mcast_snooping", "mcast_querier", "mcast_router",
		"nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables",
	}
	portAttributes = []string{
		"state", "priority", "cost", "hairpin", "guard", "root_block", "fastleave", "learning", "flood", "proxy_arp",
		"proxy_arp_wifi", "mcast_flood", "bcast_flood", "mcast_to_unicast", "neigh_suppress", "group_fwd_mask_str",
		"vlan_tunnel", "isolated", "locked",
	}
	addressAttributes = []string{
		"local", "prefixlen", "address", "broadcast", "scope", "label", "dynamic", "nodad", "home", "deprecated",
		"dadfailed", "noprefixroute", "mngtmpaddr", "temporary", "metric",
	}
)

func (n *Namespace) links() ([]string, error) {
	links, err := n.showJSON("ip", "-json", "-details", "link", "show")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, link := range links {
		link["flags"] = settings(link["flags"])
		info, _ := link["linkinfo"].(object) // absent for physical ones and lo
		line := fmt.Sprint(link["ifname"], pick(link, linkAttributes))
		if kind := info["info_kind"]; kind != nil {
			line += fmt.Sprint(" kind=", kind)
		}
		if bridge, ok := info["info_data"].(object); ok && info["info_kind"] == "bridge" {
			line += pick(bridge, bridgeAttributes)
		}
		if port, ok := info["info_slave_data"].(object); ok {
			if port["state"] == "disabled" || port["state"] == "forwarding" {
				delete(port, "state") // of these two it is the carrier's, and comes some time after it
			}
			line += " port:" + pick(port, portAttributes)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// settings are the flags of a link that somebody set; the others follow from the
// carrier, some time after it changed.
func settings(flags any) []any {
	list, _ := flags.([]any) // absent where there are none
	return slices.DeleteFunc(list, func(flag any) bool {
		return flag == "LOWER_UP" || flag == "NO-CARRIER" || flag == "M-DOWN" || flag == "DORMANT"
	})
}

func (n *Namespace) addresses() ([]string, error) {
	links, err := n.showJSON("ip", "-json", "-details", "address", "show")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, link := range links {
		addresses, _ := link["addr_info"].([]any) // absent where there are none
		for _, address := range addresses {
			if attributes, ok := address.(object); ok && attributes["local"] != linkLocal(link["address"]) {
				lines = append(lines, fmt.Sprint(link["ifname"], pick(attributes, addressAttributes)))
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// linkLocal is the address that the kernel gives to a link with that MAC, some
// time after it is up (RFC 4291, appendix A); "" for no MAC.
func linkLocal(mac any) string {
	m, err := net.ParseMAC(fmt.Sprint(mac))
	if err != nil || len(m) != 6 {
		return ""
	}
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}).String()
}

// pick shows the attributes that are there.
func pick(o object, attributes []string) string {
	var line strings.Builder
	for _, name := range attributes {
		if value, ok := o[name]; ok {
			fmt.Fprintf(&line, " %s=%v", name, value)
		}
	}
	return line.String()
}

// passing is what a route shows beside its settings: the remaining life of one
// that a router announced, the lack of a carrier.
var passing = regexp.MustCompile(` expires \d+sec| linkdown`)

func (n *Namespace) routes() ([]string, error) {
	lines, err := n.showSorted(
		[]string{"ip", "-4", "-details", "route", "show", "table", "all"},
		[]string{"ip", "-6", "-details", "route", "show", "table", "all"},
	)
	for i := range lines {
		lines[i] = passing.ReplaceAllString(lines[i], "")
	}
	return slices.DeleteFunc(lines, isDerived), err
}

// isDerived says whether a route is the kernel's shadow of an IPv6 address, or of
// a link that is up: it appears some time after these, when there is a carrier
// and the detection of duplicates is over.
func isDerived(route string) bool {
	local := strings.Contains(route, ":") && strings.Contains(route, " table local proto kernel ")
	return local || strings.Contains(route, " fe80::/64 ") && strings.Contains(route, " proto kernel ")
}

func (n *Namespace) rules() ([]string, error) {
	return n.showSorted([]string{"ip", "-4", "rule", "show"}, []string{"ip", "-6", "rule", "show"})
}

func (n *Namespace) neighbours() ([]string, error) {
	return n.showSorted(
		[]string{"ip", "neighbour", "show", "nud", "permanent"},
		[]string{"ip", "neighbour", "show", "proxy"},
	)
}

// fdb is the entries that were configured. The others are learned, or are the
// multicast groups that follow from addresses.
func (n *Namespace) fdb() ([]string, error) {
	lines, err := n.showSorted([]string{"bridge", "fdb", "show"})
	return slices.DeleteFunc(lines, func(line string) bool {
		group := strings.HasPrefix(line, "33:33:") || strings.HasPrefix(line, "01:00:5e:")
		return group || !strings.Contains(line, "permanent") && !strings.Contains(line, "static")
	}), err
}

// files shows each file below the roots with its mode and its content, of a large one
// its hash. The mounts of network namespaces are left out: they are containers. So
// is what was found of tables of nftables: it says nothing that these do not.
func files(roots ...string) ([]string, error) {
	var lines []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case path == "/run/netns", path == "/run/trestle/nft":
				return filepath.SkipDir
			case entry.IsDir():
				return nil
			}
			line, err := describeFile(path, entry)
			if !emptyLock.MatchString(line) {
				lines = append(lines, line)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// emptyLock is the line of a lock that nobody wrote to ("lock", "br0.lock").
var emptyLock = regexp.MustCompile(`^file \S*[./]lock \S+ ""\n$`)

// stampTime is the time in a record, which says when an ADD was, and checksum what follows from
// the rest.
var (
	stampTime = regexp.MustCompile(`"time":"[^"]*"`)
	checksum  = regexp.MustCompile(`,"crc32":[0-9]+}`)
)

func describeFile(path string, entry fs.DirEntry) (string, error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("file %s %v", path, info.Mode())
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return line + " -> " + target + "\n", err
	case info.Mode().IsRegular():
		content, err := os.ReadFile(path)
		content = stampTime.ReplaceAll(checksum.ReplaceAll(content, []byte("}")), []byte(`"time":"…"`))
		if len(content) > 2000 {
			return fmt.Sprintf("%s %d bytes %.200q… sha256 %x\n", line, len(content), content, sha256.Sum256(content)), err
		}
		return fmt.Sprintf("%s %q\n", line, content), err
	}
	return line + "\n", nil
}
