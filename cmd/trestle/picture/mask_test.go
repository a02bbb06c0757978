package picture

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

func masker(t *testing.T) *Masker {
	t.Helper()
	m, err := NewMasker([16]byte([]byte("a key for a test")))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMaskText: an address is masked wherever it occurs, always with the same one, and nothing
// else is masked.
func TestMaskText(t *testing.T) {
	m := masker(t)
	v4, v6, gateway := m.addr(addr("10.22.0.7")).String(), m.addr(addr("fd6c:4ae9::7")).String(), m.addr(addr("10.22.0.1")).String()
	subnet := netip.PrefixFrom(m.addr(addr("10.22.0.0")), 16).Masked().String()
	four := m.addr(addr("10.22.0.7")).As4()
	mac := fmt.Sprintf("0a:58:%02x:%02x:%02x:%02x", four[0], four[1], four[2], four[3])
	for text, want := range map[string]string{
		"10.22.0.7":                           v4,
		"10.22.0.7.":                          v4 + ".",
		"10.22.0.1-10.22.0.7":                 gateway + "-" + v4,
		"10.22.0.7:8080→80/tcp":               v4 + ":8080→80/tcp",
		"[fd6c:4ae9::7]:53→53/udp":            "[" + v6 + "]:53→53/udp",
		"10.22.0.0/16 and 10.22.0.7/16":       subnet + " and " + v4 + "/16",
		"host ip-10-22-0-7.internal":          "host ip-" + strings.ReplaceAll(v4, ".", "-") + ".internal",
		"web10.22.0.7.local":                  "web" + v4 + ".local",
		"0a:58:0a:16:00:07":                   mac,
		"gateway (10.22.0.1), \"10.22.0.7\"":  "gateway (" + gateway + "), \"" + v4 + "\"",
		"a-1-2-3 at 12:30:00, 4.19.0-21, 1.2": "a-1-2-3 at 12:30:00, 4.19.0-21, 1.2",
		"127.0.0.1 ::1 :: 0.0.0.0/0 ::/0":     "127.0.0.1 ::1 :: 0.0.0.0/0 ::/0",
		"255.255.255.0 224.0.0.251 ff02::1":   "255.255.255.0 224.0.0.251 ff02::1",
		"network trestle, 2026-11-26T02:00Z":  "network trestle, 2026-11-26T02:00Z",
	} {
		if got := m.text(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	if v4 == "10.22.0.7" || v6 == "fd6c:4ae9::7" || !strings.HasPrefix(v4, "10.") || !strings.HasSuffix(v6, "::7") {
		t.Errorf("got %s and %s", v4, v6)
	}
	if got := m.text("52:54:00:12:34:56"); !strings.HasPrefix(got, "52:54:00:") || got == "52:54:00:12:34:56" {
		t.Errorf("got %s", got)
	}
}

// TestMaskKeepsSubnets: two masked addresses have as many leading bits in common as the addresses
// had, so that different addresses stay different.
func TestMaskKeepsSubnets(t *testing.T) {
	m := masker(t)
	common := func(a, b netip.Addr) int {
		x, y := a.AsSlice(), b.AsSlice()
		for bit := range a.BitLen() {
			if (x[bit/8]^y[bit/8])>>(7-bit%8)&1 == 1 {
				return bit
			}
		}
		return a.BitLen()
	}
	all := from("10.22.0.250", 20)
	all = append(all, addr("10.9.0.1"), addr("192.168.1.1"), addr("192.168.2.1"), addr("203.0.113.9"), addr("172.16.3.4"), addr("172.17.0.1"))
	for _, a := range all {
		for _, b := range all {
			if got, want := common(m.addr(a), m.addr(b)), common(a, b); got != want {
				t.Errorf("%s and %s: %d bits in common, masked %d", a, b, want, got)
			}
		}
	}
	other, err := NewMasker([16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if other.addr(all[0]) == m.addr(all[0]) {
		t.Error("another key gives the same mask")
	}
}

// TestMaskLeavesNone: of 20,000 keys none masks an address of a subnet by itself.
func TestMaskLeavesNone(t *testing.T) {
	for i := range 20_000 {
		m, err := NewMasker([16]byte{byte(i), byte(i >> 8)})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []netip.Addr{addr("192.0.2.2"), addr("10.22.0.2"), addr("fd6c:4ae9:71d3:22::2")} {
			if m.addr(a) == a {
				t.Errorf("key %d masks %s by itself", i, a)
			}
		}
	}
}

// reported is a report of the host with everything that the command adds.
func reported() Report {
	r := NewReport(smallHost())
	r.Facts = [][2]string{{"Trestle", "2.0.0"}, {"Kernel", "6.1.0-21-amd64"}}
	r.Findings = []Finding{{"fault", "forwarding", "trestle", "net.ipv4.ip_forward is 0:\n10.22.0.2 reaches nobody", "sysctl -w net.ipv4.ip_forward=1"}}
	r.Lists = []List{{"/etc/cni/net.d/10-trestle.conflist", "{\n\t\"subnet\": \"10.22.0.0/16\",\n\t\"name\": \"ip-10-22-0-2\"\n}"}}
	r.Problems = []string{"lease 10.22.0.9: <odd> & truncated"}
	return r
}

// TestReportMasked: a masked report contains no address of the host; the unmasked one does.
func TestReportMasked(t *testing.T) {
	hidden, err := reported().Mask(masker(t))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := reported().Page()
	if err != nil {
		t.Fatal(err)
	}
	page, err := hidden.Page()
	if err != nil {
		t.Fatal(err)
	}
	assertSelfContained(t, "plain", plain)
	assertSelfContained(t, "masked", page)
	data, err := json.Marshal(hidden)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{
		`192\.0\.2\.`, `2001:db8:`, `10\.22\.`, `fd6c:4ae9`, `198\.51\.100\.`, `10\.99\.0\.`, `10-22-0`, `0a:16:00`, `00:12:34:56`, `10\.24\.`,
	} {
		pattern := regexp.MustCompile(secret)
		if found := pattern.FindString(page + string(data)); found != "" {
			t.Errorf("%q is in the masked report", found)
		}
		if !pattern.MatchString(plain) {
			t.Errorf("%q is not in the plain report, so that its absence proves nothing", secret)
		}
	}
	for _, kept := range []string{"trestle0", "veth04d3b3f2", "6.1.0-21-amd64", "addresses are masked", "sysctl -w net.ipv4.ip_forward=1", "8080→80/tcp", "/etc/cni/net.d/10-trestle.conflist", "&lt;odd&gt;"} {
		if !strings.Contains(page, kept) {
			t.Errorf("%q is not in the masked report", kept)
		}
	}
	web := hidden.Topology.Segments[0].Members[0]
	if got := hidden.Ports[0].Container; !strings.HasPrefix(got, web.Addresses[0].String()+":") {
		t.Errorf("the port leads to %s, the container is %s: not the same mask", got, web.Addresses[0])
	}
}
