package trestle

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/doctor"
)

// TestRangeSets: a container gets an address of each range set, of whichever range of that. So a
// full range is no fault, and a full set is one, whatever the other sets have.
func TestRangeSets(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	list := `{"cniVersion": "1.0.0", "name": "sets", "plugins": [{"type": "bridge", "bridge": "br7", "ipam": {"type": "host-local",
		"ranges": [[{"subnet": "10.60.0.0/30"}, {"subnet": "10.61.0.0/30"}], [{"subnet": "fd60::/64"}]]}}]}`
	p.InstallNetwork("50-sets.conflist", list)
	n := p.Network(list)
	for _, container := range []struct {
		id, want, free, finding string
	}{
		{"c1", "10.60.0.0/30, gateway 10.60.0.1, 1 of 1 leased, range set 0\n", "1", ""},
		{"c2", "10.61.0.0/30, gateway 10.61.0.1, 1 of 1 leased, range set 0\n", "0", "all 2 addresses of 10.60.0.0/30 and 10.61.0.0/30 together are leased"},
	} {
		p.add(n, p.Container(container.id), "eth0")
		if got := must(t, p.Host, "network", "inspect", "sets"); !strings.Contains(got, container.want) || !strings.Contains(got, "range set 1\n") {
			t.Errorf("after %s: got\n%swant %q in it, and range set 1", container.id, got, container.want)
		}
		if got, want := must(t, p.Host, "metrics"), `trestle_range_set_free_addresses{network="sets",set="0"} `+container.free+"\n"; !strings.Contains(got, want) {
			t.Errorf("after %s: got\n%swant %q in it", container.id, got, want)
		}
		assertPool(t, p.examine(), container.finding)
	}
}

// TestLeasesOfAFormerDirectory: leases in the directory that a network had before its dataDir was
// changed are listed, and take no address of its pool: an ADD does not look there.
func TestLeasesOfAFormerDirectory(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.InstallNetwork("50-moved.conflist", `{"cniVersion": "1.0.0", "name": "moved", "plugins": [{"type": "bridge", "bridge": "br7",
		"ipam": {"type": "host-local", "dataDir": "/var/lib/leases", "ranges": [[{"subnet": "10.60.0.0/30"}]]}}]}`)
	p.sh(`mkdir -p /var/lib/cni/networks/moved; printf 'old\r\neth0' >/var/lib/cni/networks/moved/10.60.0.2`)
	assertPool(t, p.examine(), "")
	if got := must(t, p.Host, "ls"); !strings.Contains(got, "10.60.0.2") {
		t.Errorf("got\n%swant 10.60.0.2 in it", got)
	}
	p.sh(`mkdir -p /var/lib/leases/moved; printf 'new\r\neth0' >/var/lib/leases/moved/10.60.0.2`)
	assertPool(t, p.examine(), "the only address of 10.60.0.0/30 is leased")
}

// assertPool fails the test unless the only finding is the one of the pool with that beginning, or
// there is none, for "".
func assertPool(t *testing.T, found []doctor.Finding, begins string) {
	t.Helper()
	var texts []string
	for _, f := range found {
		texts = append(texts, f.Check+": "+f.Text)
	}
	got := strings.Join(texts, "\n")
	if begins == "" && got != "" || begins != "" && (len(found) != 1 || !strings.HasPrefix(got, "pool: "+begins)) {
		t.Errorf("got %q, want pool: %q alone, or nothing for \"\"", got, begins)
	}
}
