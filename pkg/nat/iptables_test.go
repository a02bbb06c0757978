package nat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestOwnerChain: the chain of the first interface has exactly the reference plugin's name
// (plugins: pkg/utils, FormatChainName), so that its DEL finds it; other interfaces have
// chains of their own.
func TestOwnerChain(t *testing.T) {
	first, second, other := owner("test", "1234"), owner("test", "1234"), owner("test", "1235")
	second.IfName = "eth1"
	if got, want := ownerChain(first), "CNI-DN-"+sha512Hex("test1234", 21); got != want || len(got) != 28 {
		t.Errorf("got %s, want %s of 28 bytes", got, want)
	}
	if ownerChain(second) == ownerChain(first) || ownerChain(other) == ownerChain(first) {
		t.Error("two attachments have one chain")
	}
}

func TestWordsOf(t *testing.T) {
	for rule, want := range map[string][]string{
		`-A X -p tcp`: {"-A", "X", "-p", "tcp"},
		`-A X -m comment --comment "blue/c1/eth0 6c8d" -j Y`:          {"-A", "X", "-m", "comment", "--comment", "blue/c1/eth0 6c8d", "-j", "Y"},
		`-A X --comment "dnat name: \"n\" id: \"c1\"" -j Y`:           {"-A", "X", "--comment", `dnat name: "n" id: "c1"`, "-j", "Y"},
		`-A X --comment "a \\ and \' and ` + "\t" + `" ! -d 10.0.0.1`: {"-A", "X", "--comment", `a \ and ' and ` + "\t", "!", "-d", "10.0.0.1"},
	} {
		if diff := cmp.Diff(want, wordsOf(rule)); diff != "" {
			t.Errorf("%s: -want +got\n%s", rule, diff)
		}
	}
	if got := option(wordsOf("-A X ! -d 10.0.0.1 -p tcp"), "-d"); got != "" {
		t.Errorf("a condition that is turned round: got %q, want none", got)
	}
}

// referenceMapping makes the rules that the reference plugin makes for a container.
const referenceMapping = `
iptables -t nat -N CNI-HOSTPORT-SETMARK
iptables -t nat -A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
iptables -t nat -N CNI-HOSTPORT-MASQ
iptables -t nat -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
iptables -t nat -I POSTROUTING 1 -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
iptables -t nat -N CNI-HOSTPORT-DNAT
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables -t nat -N CNI-DN-0123456789abcdef01234
iptables -t nat -A CNI-DN-0123456789abcdef01234 -p tcp --dport 7070 -j DNAT --to-destination 10.9.0.9:80
iptables -t nat -A CNI-HOSTPORT-DNAT -m comment --comment 'dnat name: "old" id: "oldest"' -m multiport -p tcp --destination-ports 7070 -j CNI-DN-0123456789abcdef01234
`

// TestIPTablesBesideTheReference: shared chains and rules are made once, and the reference
// plugin's rules stay.
func TestIPTablesBesideTheReference(t *testing.T) {
	h := openHost(t, IPTables)
	run(t, "sh", "-ec", referenceMapping)
	only4 := twoPorts()
	only4.MarkBit, only4.Mappings = defaultMarkBit, only4.Mappings[:1]
	before := saved(t)
	must(t, h.AddPorts(owner("blue", "c1"), only4))
	for shared, want := range map[string]int{"-j CNI-HOSTPORT-DNAT": 2, "-j CNI-HOSTPORT-MASQ": 1, "-j MASQUERADE": 1} {
		if got := strings.Count(saved(t), shared); got != want {
			t.Errorf("%q: got it %d times, want %d, in\n%s", shared, got, want, saved(t))
		}
	}
	must(t, h.Release(owner("blue", "c1")))
	must(t, h.GC("blue", cni.Valid{Known: true}))
	if diff := cmp.Diff(before, saved(t)); diff != "" {
		t.Errorf("after GC: -want +got\n%s", diff)
	}
}

// TestIPTablesSharedChainsOutliveTheLast attachment, as the reference's do; GC removes them.
func TestIPTablesSharedChainsOutliveTheLast(t *testing.T) {
	h := openHost(t, IPTables)
	must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
	must(t, h.Release(owner("blue", "c1")))
	if got := saved(t); strings.Count(got, ":CNI-HOSTPORT-DNAT") != 2 || strings.Contains(got, "CNI-DN-") {
		t.Errorf("got\n%s\nwant the shared chains alone", got)
	}
	nothingLeft(t, h)
}

// TestNoProgramOfIPTables: no program is run if the backend is not used, and rules of the nft
// variant are released without one.
func TestNoProgramOfIPTables(t *testing.T) {
	for _, tables := range []string{"", "iptables -t nat -A PREROUTING -j RETURN; ip6tables -t nat -A OUTPUT -j RETURN", referenceMapping} {
		h := openHost(t, NFTables)
		run(t, "sh", "-ec", tables)
		path := os.Getenv("PATH")
		t.Setenv("PATH", "/nonexistent")
		must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
		must(t, h.Release(owner("blue", "c1")))
		must(t, h.ReleaseReference(owner("blue", "c2"), nil))
		must(t, h.GC("blue", cni.Valid{Known: true}))
		must(t, h.Restore())
		t.Setenv("PATH", path)
	}
}

func TestReleaseWithoutTheProgram(t *testing.T) {
	h := openHost(t, IPTables)
	must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
	path := os.Getenv("PATH")
	t.Setenv("PATH", "/nonexistent")
	must(t, h.Release(owner("blue", "c1")))
	t.Setenv("PATH", path)
	if got := saved(t); strings.Contains(got, "CNI-DN-") {
		t.Errorf("got\n%s\nwant no chain of the attachment", got)
	}
	nothingLeft(t, h)
}

// TestReleaseOutOfReach: if the program is missing, rules of iptables-legacy are left for GC,
// and their ports can be mapped again meanwhile.
func TestReleaseOutOfReach(t *testing.T) {
	h := openHost(t, IPTables)
	programs := legacyPrograms(t)
	path := os.Getenv("PATH")
	t.Setenv("PATH", programs)
	must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
	t.Setenv("PATH", "/nonexistent")
	var warned []string
	h.Warn = func(text string) { warned = append(warned, text) }
	must(t, h.Release(owner("blue", "c1")))
	if len(warned) != 1 || !strings.Contains(warned[0], "blue/c1/eth0: left for GC") || strings.Contains(warned[0], "not found") {
		t.Errorf("got warnings %q, want one that says what is left for GC", warned)
	}
	t.Setenv("PATH", programs)
	other := twoPorts()
	must(t, h.AddPorts(owner("blue", "c2"), other))
	if got := run(t, "iptables-legacy-save", "-t", "nat"); strings.Contains(got, ownerChain(owner("blue", "c1"))) {
		t.Errorf("after the next ADD of that port: got\n%s\nwant nothing of c1 before it", got)
	}
	must(t, h.Release(owner("blue", "c2")))
	must(t, h.GC("blue", cni.Valid{Known: true}))
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		if got := run(t, program, "-t", "nat"); strings.Contains(got, "CNI-") {
			t.Errorf("after GC: got\n%s\nwant nothing", got)
		}
	}
	t.Setenv("PATH", path)
	nothingLeft(t, h)
}

// TestIPTablesWithoutNFTables: on a kernel without nf_tables ports are mapped by iptables, on
// all addresses except 127.0.0.1.
func TestIPTablesWithoutNFTables(t *testing.T) {
	h := openHost(t, Auto)
	path := os.Getenv("PATH")
	t.Setenv("PATH", legacyPrograms(t))
	forbidNetfilterSockets(t)
	ports := twoPorts()
	ports.HostAddress = ports.Subnets[0].Masked().Addr().Next()
	a := h.attachment(owner("blue", "c1"), &Masquerade{Prefixes: prefixes("10.1.0.0/24")}, &ports)
	must(t, h.Status(Auto))
	must(t, h.add(a))
	if diffs, err := h.Diff(a); err != nil || len(diffs) > 0 {
		t.Errorf("Check: got %q, %v, want no difference", diffs, err)
	}
	run(t, "iptables", "-t", "nat", "-F")
	must(t, h.Restore())
	if diffs, err := h.Diff(a); err != nil || len(diffs) > 0 {
		t.Errorf("Check after a flush and Restore: got %q, %v, want no difference", diffs, err)
	}
	must(t, h.ReleaseReference(owner("blue", "c2"), nil))
	must(t, h.Release(owner("blue", "c1")))
	must(t, h.GC("blue", cni.Valid{Known: true}))
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		if got := run(t, program, "-t", "nat"); strings.Contains(got, "CNI-") || strings.Contains(got, "TRESTLE") {
			t.Errorf("after GC: got\n%s\nwant nothing", got)
		}
	}
	t.Setenv("PATH", path)
}

// forbidNetfilterSockets makes the kernel look to this thread as if it had no nfnetlink.
func forbidNetfilterSockets(t *testing.T) {
	t.Helper()
	const number, domain, protocol = 0, 16, 32 // in struct seccomp_data (linux/seccomp.h)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	orAllow := func(value uint32, skip uint8) unix.SockFilter { // anything else is allowed
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(number), orAllow(unix.SYS_SOCKET, 5),
		load(domain), orAllow(unix.AF_NETLINK, 3),
		load(protocol), orAllow(unix.NETLINK_NETFILTER, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatalf("forbid sockets: %v", errno)
	}
}

// legacyPrograms returns a PATH that has only the legacy variant, by all of its names.
func legacyPrograms(t *testing.T) string {
	t.Helper()
	golden.OwnXtablesLock(t)
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			for _, variant := range []string{"", "-legacy"} {
				must(t, os.Symlink("/usr/sbin/"+name+"-legacy"+suffix, filepath.Join(dir, name+variant+suffix)))
			}
		}
	}
	return dir
}

// TestIPTablesWithoutRecords: rules without a record, as after a boot with a saved ruleset or
// the loss of /run, are adopted if their owner is alive, and removed otherwise.
func TestIPTablesWithoutRecords(t *testing.T) {
	for name, act := range map[string]func(testHost) error{
		"restore": testHost.Restore,
		"GC":      func(h testHost) error { return h.GC("blue", cni.Valid{}) },
	} {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/alive=%v", name, alive), func(t *testing.T) {
				h := openHost(t, IPTables)
				ports := twoPorts()
				ports.MarkBit = defaultMarkBit
				must(t, h.AddPorts(owner("blue", "c1"), ports))
				lost := openAt(t, IPTables, t.TempDir())
				lost.alive = func(string) (bool, error) { return alive, nil }
				must(t, act(lost))
				if !alive {
					if got := saved(t); strings.Contains(got, "CNI-DN-") {
						t.Errorf("got\n%s\nwant no chain of c1", got)
					}
					must(t, lost.AddPorts(owner("red", "c2"), twoPorts()))
					return
				}
				if diffs, err := lost.CheckPorts(owner("blue", "c1"), ports); err != nil || len(diffs) > 0 {
					t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
				}
				if err := lost.AddPorts(owner("red", "c2"), twoPorts()); cni.CodeOf(err) != cni.CodeConflict {
					t.Errorf("another container: got %v, want code %d", err, cni.CodeConflict)
				}
				must(t, lost.Release(owner("blue", "c1")))
				nothingLeft(t, lost)
			})
		}
	}
}

// TestTableThatNFTLoaded: after "nft list ruleset" and "nft -f" iptables cannot read its tables
// any more, and no comment says whose a rule is.
func TestTableThatNFTLoaded(t *testing.T) {
	reload := func(t *testing.T) {
		saved := filepath.Join(t.TempDir(), "ruleset")
		run(t, "sh", "-ec", "nft list ruleset >"+saved+"; nft flush ruleset; nft -f "+saved)
	}
	t.Run("at a boot", func(t *testing.T) {
		h := openHost(t, IPTables)
		must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
		reload(t)
		booted := openAt(t, IPTables, t.TempDir())
		must(t, booted.AddMasquerade(owner("red", "c2"), Masquerade{Prefixes: prefixes("10.1.0.0/24")}))
		if got := golden.Ruleset(t); strings.Contains(got, "10.1.0.5") || strings.Contains(got, "fd00:1::5") {
			t.Errorf("got\n%s\nwant nothing of c1", got)
		}
	})
	for name, act := range map[string]func(testHost) error{
		"restore": testHost.Restore,
		"ADD":     func(h testHost) error { return h.AddPorts(owner("blue", "c3"), portsOfBoth(7)) },
		"DEL":     func(h testHost) error { return h.Release(owner("blue", "c2")) },
	} {
		t.Run(name, func(t *testing.T) {
			h := openHost(t, IPTables)
			must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
			must(t, h.AddPorts(owner("blue", "c2"), portsOfBoth(6)))
			must(t, h.AddMasquerade(owner("blue", "c1"), Masquerade{Prefixes: prefixes("10.1.0.0/24")}))
			reload(t)
			must(t, act(h))
			if diffs, err := h.CheckPorts(owner("blue", "c1"), twoPorts()); err != nil || len(diffs) > 0 {
				t.Errorf("CheckPorts of c1: got %q, %v, want no difference", diffs, err)
			}
			for _, c := range []string{"c1", "c2", "c3"} {
				must(t, h.Release(owner("blue", c)))
			}
			nothingLeft(t, h)
		})
	}
}

// portsOfBoth returns mappings of both families to a container that no other test has.
func portsOfBoth(last int) Ports {
	return Ports{
		Mappings: []Mapping{
			mapping(TCP, fmt.Sprintf("0.0.0.0:%d", 9000+last), fmt.Sprintf("10.1.0.%d:80", last)),
			mapping(TCP, fmt.Sprintf("[::]:%d", 9000+last), fmt.Sprintf("[fd00:1::%d]:80", last)),
		},
		Subnets: prefixes(fmt.Sprintf("10.1.0.%d/24", last), fmt.Sprintf("fd00:1::%d/64", last)),
	}
}

// TestReferenceInLegacyTables: rules of the reference plugin that netlink does not show are
// read by the programs.
func TestReferenceInLegacyTables(t *testing.T) {
	for _, there := range []bool{true, false} {
		h := openHost(t, IPTables)
		path := os.Getenv("PATH")
		t.Setenv("PATH", legacyPrograms(t)+":"+path)
		run(t, "sh", "-ec", referenceMapping)
		if there {
			run(t, "ip", "link", "set", "lo", "up")
			run(t, "ip", "route", "add", "10.9.0.9/32", "dev", "lo") // an interface of which nothing is known
		}
		ports := twoPorts()
		ports.Mappings = []Mapping{mapping(TCP, "0.0.0.0:7070", "10.1.0.5:80")}
		err := h.AddPorts(owner("blue", "c1"), ports)
		switch {
		case !there:
			must(t, err)
			if got := run(t, "iptables-legacy-save", "-t", "nat"); strings.Contains(got, "10.9.0.9") {
				t.Errorf("got\n%s\nwant nothing of a container that is gone", got)
			}
		case cni.CodeOf(err) != cni.CodeConflict || !strings.Contains(err.Error(), "oldest") || !strings.HasSuffix(err.Error(), "iptables -t nat -F CNI-DN-0123456789abcdef01234"):
			t.Errorf("got %v, want code %d that names the container and the command", err, cni.CodeConflict)
		}
		t.Setenv("PATH", path)
	}
}

// TestFirstUseAfterABoot: a ruleset that was saved before the boot is removed by the first
// call, whichever it is.
func TestFirstUseAfterABoot(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
		booted := openAt(t, backend, t.TempDir())
		must(t, booted.AddMasquerade(owner("red", "c2"), Masquerade{Prefixes: prefixes("10.1.0.0/24")}))
		if got := saved(t); strings.Contains(got, "blue/c1/eth0") {
			t.Errorf("got\n%s\nwant nothing of c1", got)
		}
		if left, err := booted.list(); err != nil || len(left) > 0 {
			t.Errorf("got elements %v, %v, want none", left, err)
		}
	})
}

// TestQuoteInTheInterfacesName: the name is in a comment, which has to be parsed again.
func TestQuoteInTheInterfacesName(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		o := owner("blue", "c1")
		o.IfName = `e"t'h\`
		must(t, h.AddPorts(o, twoPorts()))
		if diffs, err := h.CheckPorts(o, twoPorts()); err != nil || len(diffs) > 0 {
			t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
		}
		must(t, h.Release(o))
		nothingLeft(t, h)
	})
}

// TestManyNetworksAreRestored, dual-stack, by one restore.
func TestManyNetworksAreRestored(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		const many = 20
		for i := range many {
			o := owner(fmt.Sprintf("net%d", i), "c1")
			must(t, h.AddMasquerade(o, Masquerade{Prefixes: prefixes(fmt.Sprintf("10.1.%d.0/24", i), fmt.Sprintf("fd00:%d::/64", i))}))
		}
		want := sortedLines(state(t, backend))
		flush(t)
		must(t, h.Restore())
		if diff := cmp.Diff(want, sortedLines(state(t, backend))); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// TestManyAddressesWithoutASubnet: each counts as a subnet of its own.
func TestManyAddressesWithoutASubnet(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		const many = 34
		for i := range many {
			must(t, h.AddMasquerade(owner("blue", fmt.Sprintf("c%d", i)), Masquerade{Prefixes: prefixes(fmt.Sprintf("10.1.0.%d/32", i))}))
		}
		for i := range many {
			must(t, h.Release(owner("blue", fmt.Sprintf("c%d", i))))
		}
		nothingLeft(t, h)
	})
}

// TestOptionsThatChanged: CHECK compares the recorded options with the configured ones.
func TestOptionsThatChanged(t *testing.T) {
	both(t, "", func(t *testing.T, backend Backend) {
		h := openHost(t, backend)
		must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
		changed := twoPorts()
		changed.SNAT = false
		diffs, err := h.CheckPorts(owner("blue", "c1"), changed)
		if err != nil || len(diffs) != 1 || !strings.HasPrefix(diffs[0], "snat: want false") {
			t.Errorf("got %q, %v, want a difference of snat", diffs, err)
		}
		must(t, h.Release(owner("blue", "c1")))
	})
}

// TestLeftForGCIsNobodys: a record of rules that DEL could not remove reserves no port.
func TestLeftForGCIsNobodys(t *testing.T) {
	h := openHost(t, IPTables)
	must(t, h.AddPorts(owner("blue", "c1"), twoPorts()))
	rec, _, err := record.Read[translation](h.store, place, owner("blue", "c1"))
	must(t, err)
	rec.Value.Released = true
	must(t, h.write(rec))
	must(t, h.AddPorts(owner("red", "c2"), twoPorts()))
	must(t, h.Restore())
	if _, there, err := h.read(owner("blue", "c1")); err != nil || there {
		t.Errorf("after restore: got its record: %v, %v, want it gone", there, err)
	}
	if diffs, err := h.CheckPorts(owner("red", "c2"), twoPorts()); err != nil || len(diffs) > 0 {
		t.Errorf("CheckPorts of the next one: got %q, %v, want no difference", diffs, err)
	}
}

// A chain that another program deletes after it was listed is no error, and the others are
// deleted.
func TestChainsGoneMeanwhile(t *testing.T) {
	openHost(t, Auto)
	run(t, "iptables", "-t", "nat", "-N", "CNI-DN-gone")
	run(t, "iptables", "-t", "nat", "-N", "CNI-DN-left")
	looks := 0
	err := changeNAT("iptables", func(have ipTable) ([]string, error) {
		if looks++; looks == 1 {
			run(t, "iptables", "-t", "nat", "-X", "CNI-DN-gone")
		}
		return have.deleteChains([]string{"CNI-DN-gone", "CNI-DN-left"}), nil
	})
	if err != nil || looks != 2 {
		t.Errorf("got %v after %d looks, want none after 2", err, looks)
	}
	if got := run(t, "iptables", "-t", "nat", "-S"); strings.Contains(got, "CNI-DN") {
		t.Errorf("got %s, want neither chain", got)
	}
}
