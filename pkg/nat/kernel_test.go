package nat

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/test/golden"
)

// testHost is a Host with one backend for masquerade and ports.
type testHost struct {
	*Host
	backend Backend
	dir     string
}

// openHost returns one in a new network namespace. Only records show that an owner is alive.
func openHost(t *testing.T, backend Backend) testHost {
	t.Helper()
	golden.EnterNetNS(t)
	return openAt(t, backend, t.TempDir())
}

func openAt(t *testing.T, backend Backend, dir string) testHost {
	t.Helper()
	conn := nft.Open(filepath.Join(dir, "nft"))
	t.Cleanup(conn.Close)
	return testHost{Open(record.Open(dir), conn, nil), backend, dir}
}

func (h testHost) attachment(o cni.Owner, m *Masquerade, p *Ports) Attachment {
	stamp, err := record.NewStamp("")
	if err != nil {
		panic(err) // a machine without a boot id
	}
	return Attachment{Owner: o, Stamp: stamp, Masquerade: m, MasqueradeBackend: h.backend, Ports: p, PortsBackend: h.backend}
}

func (h testHost) add(a Attachment) (err error) {
	var undo cni.Undo
	defer undo.OnError(&err)
	return h.Add(a, &undo)
}

func (h testHost) AddMasquerade(o cni.Owner, m Masquerade) error {
	return h.add(h.attachment(o, &m, nil))
}

func (h testHost) AddPorts(o cni.Owner, p Ports) error { return h.add(h.attachment(o, nil, &p)) }

func (h testHost) CheckMasquerade(o cni.Owner, m Masquerade) ([]string, error) {
	return h.Diff(h.attachment(o, &m, nil))
}

func (h testHost) CheckPorts(o cni.Owner, p Ports) ([]string, error) {
	return h.Diff(h.attachment(o, nil, &p))
}

func (h testHost) Release(o cni.Owner) error { return h.Host.Release(o, Also{}) }

func (h testHost) Restore() error { return h.Host.Restore(&cni.Restored{}) }

func owner(network, container string) cni.Owner {
	return cni.Owner{Network: network, ContainerID: container, IfName: "eth0"}
}

func prefixes(list ...string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, s := range list {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// saved returns what iptables-save prints in the namespace, without counters and dates.
func saved(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"iptables-save", "ip6tables-save"} {
		for _, table := range []string{"nat", "raw"} {
			for line := range strings.Lines(run(t, name, "-t", table)) {
				if strings.HasPrefix(line, ":") {
					line, _, _ = strings.Cut(line, " [")
				}
				if !strings.HasPrefix(line, "#") {
					all.WriteString(strings.TrimSpace(line) + "\n")
				}
			}
		}
	}
	return all.String()
}

// state returns the namespace's rules of the backend.
func state(t *testing.T, backend Backend) string {
	t.Helper()
	if backend == IPTables {
		return saved(t)
	}
	return golden.Ruleset(t)
}

// nothingLeft checks that neither kernel nor records have anything of an attachment, and that
// nothing of ours is left after a GC with an empty list.
func nothingLeft(t *testing.T, h testHost) {
	t.Helper()
	for _, network := range []string{"blue", "red", strings.Repeat("n", 200)} {
		left, err := record.List[translation](h.store, place, network)
		must(t, err)
		for _, rec := range left {
			t.Errorf("records: %s is left", rec.Owner)
		}
		must(t, h.GC(network, cni.Valid{Known: true}))
	}
	if got := golden.Ruleset(t) + saved(t); regexp.MustCompile(`(?i)trestle|CNI-`).MatchString(got) {
		t.Errorf("ruleset: got\n%s\nwant nothing of ours", got)
	}
	reserved, err := filepath.Glob(filepath.Join(h.dir, "hostports", "*"))
	must(t, err)
	for _, file := range reserved {
		t.Errorf("reservations: %s is left", file)
	}
}

// both runs a test with each backend.
func both(t *testing.T, name string, test func(*testing.T, Backend)) {
	t.Helper()
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(strings.Trim(name+"/"+string(backend), "/"), func(t *testing.T) { test(t, backend) })
	}
}

// flush deletes all rules, as an administrator might.
func flush(t *testing.T) {
	t.Helper()
	run(t, "nft", "flush", "ruleset") // iptables' too, where it is the nft variant
}
