package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/test/golden"
)

func wish(change func(*Wish)) Wish {
	w := Wish{Name: "web", Driver: "bridge", Ingress: Published}
	change(&w)
	return w
}

// TestWishRefused: each error is a user's mistake, and names flag, value and way out.
func TestWishRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Wish)
		want   []string
	}{
		"no name":               {func(w *Wish) { w.Name = "" }, []string{"name"}},
		"path":                  {func(w *Wish) { w.Name = "../x" }, []string{"name", `"../x"`}},
		"mode":                  {func(w *Wish) { w.Name = "host" }, []string{"name", `"host"`, "--net"}},
		"long":                  {func(w *Wish) { w.Name = strings.Repeat("a", 129) }, []string{"name", "128"}},
		"driver":                {func(w *Wish) { w.Driver = "overlay" }, []string{"--driver", `"overlay"`, "bridge"}},
		"policy":                {func(w *Wish) { w.Ingress = "none" }, []string{"--ingress", `"none"`, "published"}},
		"bridge":                {func(w *Wish) { w.Bridge = "a/b" }, []string{"--bridge", `"a/b"`}},
		"long bridge":           {func(w *Wish) { w.Bridge = "a234567890123456" }, []string{"--bridge", "15"}},
		"MTU":                   {func(w *Wish) { w.MTU = 60 }, []string{"--mtu", "60", "68"}},
		"MTU and IPv6":          {func(w *Wish) { w.MTU, w.IPv6 = 1000, true }, []string{"--mtu", "1000", "1280"}},
		"MTU and an IPv6 net":   {func(w *Wish) { w.MTU, w.Subnets = 1000, []string{"fd00::/64"} }, []string{"--mtu", "1280"}},
		"subnet":                {func(w *Wish) { w.Subnets = []string{"10.0.0.0"} }, []string{"--subnet", `"10.0.0.0"`, "/22"}},
		"host bits":             {func(w *Wish) { w.Subnets = []string{"10.0.0.1/24"} }, []string{"--subnet", "10.0.0.1/24", "10.0.0.0/24"}},
		"everything":            {func(w *Wish) { w.Subnets = []string{"0.0.0.0/0"} }, []string{"--subnet", "0.0.0.0/0"}},
		"multicast":             {func(w *Wish) { w.Subnets = []string{"224.1.0.0/16"} }, []string{"--subnet", "10.0.0.0/8"}},
		"link-local":            {func(w *Wish) { w.Subnets = []string{"fe80::/64"} }, []string{"--subnet", "fd00::/8"}},
		"small":                 {func(w *Wish) { w.Subnets = []string{"10.0.0.0/31"} }, []string{"--subnet", "10.0.0.0/31", "/30"}},
		"twice":                 {func(w *Wish) { w.Subnets = []string{"10.0.0.0/16", "10.0.1.0/24"} }, []string{"--subnet", "10.0.1.0/24", "10.0.0.0/16"}},
		"gateway alone":         {func(w *Wish) { w.Gateways = []string{"10.0.0.1"} }, []string{"--gateway", "10.0.0.1", "--subnet"}},
		"gateway outside":       {func(w *Wish) { w.Subnets, w.Gateways = []string{"10.0.0.0/24"}, []string{"10.0.1.1"} }, []string{"--gateway", "10.0.1.1", "10.0.0.0/24"}},
		"gateway no address":    {func(w *Wish) { w.Subnets, w.Gateways = []string{"10.0.0.0/24"}, []string{"first"} }, []string{"--gateway", `"first"`}},
		"two gateways":          {func(w *Wish) { w.Subnets, w.Gateways = []string{"10.0.0.0/24"}, []string{"10.0.0.1", "10.0.0.2"} }, []string{"--gateway", "10.0.0.2"}},
		"the net as gateway":    {func(w *Wish) { w.Subnets, w.Gateways = []string{"10.0.0.0/24"}, []string{"10.0.0.0"} }, []string{"--gateway", "10.0.0.1"}},
		"range outside":         {func(w *Wish) { w.Subnets, w.IPRanges = []string{"10.0.0.0/24"}, []string{"10.0.1.0/25"} }, []string{"--ip-range", "10.0.1.0/25"}},
		"range beyond":          {func(w *Wish) { w.Subnets, w.IPRanges = []string{"10.0.0.0/24"}, []string{"10.0.0.0/16"} }, []string{"--ip-range", "10.0.0.0/16"}},
		"exclude no address":    {func(w *Wish) { w.Subnets, w.Exclude = []string{"10.0.0.0/24"}, []string{"all"} }, []string{"--exclude", `"all"`}},
		"exclude outside":       {func(w *Wish) { w.Subnets, w.Exclude = []string{"10.0.0.0/24"}, []string{"10.0.1.7"} }, []string{"--exclude", "10.0.1.7"}},
		"label":                 {func(w *Wish) { w.Labels = []string{"mine"} }, []string{"--label", `"mine"`, "key=value"}},
		"IPv4 as IPv6":          {func(w *Wish) { w.Subnets = []string{"::ffff:10.0.0.0/120"} }, []string{"--subnet", "::ffff:10.0.0.0/120"}},
		"nothing left to lease": {func(w *Wish) { w.Subnets, w.Exclude = []string{"10.0.0.0/30"}, []string{"10.0.0.0/30"} }, []string{"nothing is left"}},
	} {
		plan, err := wish(test.change).Plan()
		if err == nil {
			err = checked(plan)
		}
		if err == nil {
			t.Errorf("%s: got %+v, want an error", name, plan)
			continue
		}
		for _, word := range test.want {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %q, want it to say %q", name, err, word)
			}
		}
		if cni.CodeOf(err) != cni.CodeConfig {
			t.Errorf("%s: got %q with code %d, want a user's mistake", name, err, cni.CodeOf(err))
		}
	}
}

func checked(p Plan) error {
	config, err := p.Config(time.Now())
	if err != nil {
		return err
	}
	return Check(config)
}

// TestConfig: the list of a network with all options, and of one without.
func TestConfig(t *testing.T) {
	at := time.Date(2026, 11, 26, 2, 30, 0, 0, time.UTC)
	for file, w := range map[string]Wish{
		"plain": wish(func(*Wish) {}),
		"full": wish(func(w *Wish) {
			w.Subnets, w.Gateways = []string{"10.40.0.0/24", "fd00:1:2:3::/64"}, []string{"10.40.0.254"}
			w.IPRanges, w.Exclude = []string{"10.40.0.128/25"}, []string{"10.40.0.200", "fd00:1:2:3::/112"}
			w.Bridge, w.MTU, w.Isolate, w.NoMasquerade, w.Labels = "br0", 1400, true, true, []string{"b=2=3", "a="}
		}),
		"internal": wish(func(w *Wish) { w.Internal, w.Ingress = true, SameBridge }),
		"open":     wish(func(w *Wish) { w.Name, w.Ingress = "a-network-of-a-long-name", Open }),
	} {
		plan, err := w.Plan()
		if err == nil {
			err = plan.Place(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := plan.Config(at)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(got); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		golden.File(t, file+".conflist", string(got))
	}
}

func taken(maybe bool, prefixes ...string) []Taken {
	var all []Taken
	for _, p := range prefixes {
		all = append(all, Taken{netip.MustParsePrefix(p), "somebody", maybe})
	}
	return all
}

// TestPlace: the first free subnet is chosen; one that Docker may use only if no other is left,
// or if it is asked for.
func TestPlace(t *testing.T) {
	for name, test := range map[string]struct {
		subnets []string
		taken   []Taken
		want    string // or the beginning of an error
	}{
		"empty host":        {nil, nil, "10.24.0.0/22"},
		"next":              {nil, taken(false, "10.24.0.0/24", "10.24.4.9/32"), "10.24.8.0/22"},
		"all of 10":         {nil, taken(false, "10.0.0.0/8"), "172.24.0.0/22"},
		"and Docker":        {nil, append(taken(false, "10.0.0.0/8"), taken(true, "172.16.0.0/12", "192.168.0.0/17")...), "192.168.128.0/22"},
		"all but Docker's":  {nil, append(taken(false, "10.0.0.0/8"), taken(true, "172.16.0.0/12", "192.168.0.0/16")...), "172.24.0.0/22"},
		"nothing":           {nil, taken(false, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), "--subnet: no /22"},
		"asked":             {[]string{"10.24.0.0/24"}, taken(false, "10.24.1.0/24"), "10.24.0.0/24"},
		"asked and taken":   {[]string{"10.24.0.0/16"}, taken(false, "10.24.1.0/24"), "--subnet: 10.24.0.0/16 overlaps with 10.24.1.0/24, somebody; choose another"},
		"asked of Docker's": {[]string{"172.17.0.0/16"}, taken(true, "172.16.0.0/12"), "172.17.0.0/16"},
	} {
		plan, err := wish(func(w *Wish) { w.Subnets = test.subnets }).Plan()
		if err != nil {
			t.Fatal(err)
		}
		err = plan.Place(test.taken)
		switch {
		case err != nil && !strings.HasPrefix(err.Error(), test.want):
			t.Errorf("%s: got %q, want %q", name, err, test.want)
		case err == nil && plan.Pools[0].String() != test.want:
			t.Errorf("%s: got %s, want %s", name, plan.Pools[0], test.want)
		}
	}
}

// TestPlaceIPv6: a unique local subnet is chosen, a different one each time, and none if one is
// given.
func TestPlaceIPv6(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		plan, err := wish(func(w *Wish) { w.IPv6 = true }).Plan()
		if err == nil {
			err = plan.Place(nil)
		}
		if err != nil || len(plan.Pools) != 2 {
			t.Fatalf("got %v, %v, want two subnets", plan.Pools, err)
		}
		subnet := plan.Pools[1].Subnet
		if subnet.Bits() != 64 || !netip.MustParsePrefix("fd00::/8").Contains(subnet.Addr()) || seen[subnet.String()] {
			t.Errorf("got %s", subnet)
		}
		seen[subnet.String()] = true
	}
	plan, err := wish(func(w *Wish) { w.IPv6, w.Subnets = true, []string{"fd00::/64"} }).Plan()
	if err == nil {
		err = plan.Place(nil)
	}
	if err != nil || len(plan.Pools) != 1 {
		t.Errorf("got %v, %v, want the subnet that is given", plan.Pools, err)
	}
}

func TestDockerPools(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.json")
	pools, err := DockerPools(file)
	if err != nil || len(pools) != 2 || !pools[0].Maybe {
		t.Errorf("got %v, %v, want Docker's own pools", pools, err)
	}
	if err := os.WriteFile(file, []byte(`{"bip": "10.24.0.1/24", "default-address-pools": [{"base": "10.25.0.0/16", "size": 24}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	pools, err = DockerPools(file)
	if err != nil || len(pools) != 2 || pools[0].Prefix.String() != "10.24.0.0/24" || pools[1].Prefix.String() != "10.25.0.0/16" || pools[1].Maybe {
		t.Errorf("got %v, %v", pools, err)
	}
	if err := os.WriteFile(file, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := DockerPools(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want it to name %s", err, file)
	}
}
