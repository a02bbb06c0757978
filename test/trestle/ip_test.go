package trestle

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/test/host"
)

// TestIPLs: leases of ours, host-local's and a person's.
func TestIPLs(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "attach", "web", "lab")
	h.MustRun("sh", "-c", "cd /var/lib/cni/networks/lab && printf 'other\\r\\neth0' >10.40.0.9 && printf 'keep this free' >10.40.0.200")
	want := `
NETWORK  ADDRESS      CONTAINER   IFNAME  AGE  NETNS
lab      10.40.0.2    web         eth0    AGE  alive
lab      10.40.0.9    other       eth0         unknown
lab      10.40.0.200  (reserved)               unknown
`
	got := strings.Split("\n"+must(t, h, "ip", "ls", "lab"), "\n")
	age := strings.Fields(got[2])[4]
	if joined := strings.Replace(strings.Join(got, "\n"), age+strings.Repeat(" ", 3-len(age)), "AGE", 1); joined != want {
		t.Errorf("got%swant%s", joined, want)
	}
	type line struct{ Address, Container string }
	if lines := answer[[]line](t, h, "ip", "ls"); len(lines) != 3 || lines[1] != (line{"10.40.0.9", "other"}) {
		t.Errorf("got %+v", lines)
	}
	refused(t, h, []string{"nowhere", "lab"}, "ip", "ls", "nowhere")
}

// TestIPRelease: what a living container has, or might have, stays unless it is forced.
func TestIPRelease(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	must(t, h, "attach", "web", "lab")
	h.MustRun("sh", "-c", "cd /var/lib/cni/networks/lab && printf 'other\\r\\neth0' >10.40.0.9 && printf 'keep this free' >10.40.0.200 && mkdir ../two && printf 'x\\r\\neth0' >../two/10.40.0.9")
	for _, test := range []struct {
		words []string
		args  string
	}{
		{[]string{"address", `"10.40"`}, "10.40"},
		{[]string{"10.40.0.3", "not leased"}, "10.40.0.3"},
		{[]string{"10.40.0.2", "web", "--force"}, "10.40.0.200 10.40.0.2"},
		{[]string{"10.40.0.9", "lab", "two", "--network"}, "10.40.0.9"},
		{[]string{"10.40.0.9", "other"}, "10.40.0.9 --network lab"},
		{[]string{"nowhere"}, "10.40.0.9 --network nowhere"},
		{[]string{"ADDRESS", "nothing is given"}, ""},
	} {
		refused(t, h, test.words, append([]string{"ip", "release"}, strings.Fields(test.args)...)...)
	}
	if got, want := must(t, h, "ip", "release", "10.40.0.200"), "10.40.0.200: free in network lab\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	must(t, h, "ip", "release", "--force", "--network", "lab", "10.40.0.9")
	web.Remove()
	awaitVeths(t, h, 0)
	host.NeedProofOfDeath(t)
	await(t, "web is dead", func() bool {
		all := answer[[]inventory.Attachment](t, h, "ls", "lab")
		return len(all) == 1 && all[0].State == inventory.Dead
	})
	must(t, h, "ip", "release", "10.40.0.2")
	if got := must(t, h, "ip", "ls", "lab", "--json"); got != "[]\n" {
		t.Errorf("got %s, want nothing", got)
	}
}

// TestIPVerify: what is wrong is found, with exit status 3, and put right; leases stay.
func TestIPVerify(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "attach", "web", "lab")
	if got := must(t, h, "ip", "verify"); got != "" {
		t.Errorf("got %q of a sound store", got)
	}
	h.MustRun("sh", "-c", "cd /var/lib/cni/networks/lab && : >10.40.0.7 && echo damaged >.trestle/owner.0123")
	before := h.Dump()
	output := run(t, h, "ip", "verify")
	if output.Code != 3 || !strings.Contains(output.Stdout, "lab: 10.40.0.7: ") || !strings.Contains(output.Stdout, "owner.0123") {
		t.Errorf("got exit status %d: %q", output.Code, output.Stdout)
	}
	if output := run(t, h, "ip", "verify", "--json"); output.Code != 3 || !strings.Contains(output.Stdout, `"file": "10.40.0.7"`) {
		t.Errorf("got exit status %d: %q", output.Code, output.Stdout)
	}
	h.AssertUnchanged(before)
	if got := must(t, h, "ip", "repair", "lab"); !strings.Contains(got, "repaired: lab: 10.40.0.7: ") {
		t.Errorf("got %q", got)
	}
	if got := must(t, h, "ip", "verify"); got != "" {
		t.Errorf("got %q after the repair", got)
	}
	if all := answer[[]inventory.Attachment](t, h, "ls"); len(all) != 1 || len(all[0].Addresses) != 1 {
		t.Errorf("got %+v, want web with its address", all)
	}
	refused(t, h, []string{"nowhere"}, "ip", "verify", "nowhere")
}
