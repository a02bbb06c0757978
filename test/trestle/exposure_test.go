package trestle

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestExposure: what network create makes by default is reached from outside by published
// ports alone, though a route leads to the container; neighbours and the host reach all of
// it, other networks do not. An internal network is cut off in both directions.
func TestExposure(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1")
	h.Outside.MustRun("ip", "route", "add", "10.40.0.0/16", "via", host.HostIPv4.Addr().String())
	must(t, h, "network", "create", "web", "--subnet", "10.40.0.0/24")
	must(t, h, "network", "create", "other", "--subnet", "10.40.1.0/24")
	must(t, h, "network", "create", "db", "--subnet", "10.40.2.0/24", "--internal")
	must(t, h, "network", "create", "apart", "--subnet", "10.40.3.0/24", "--isolate")
	spaces := map[string]*host.Container{}
	for _, c := range []struct{ name, network, publish string }{
		{"site", "web", "8080:80"},
		{"neighbour", "web", ""},
		{"stranger", "other", ""},
		{"inner1", "db", ""},
		{"inner2", "db", ""},
		{"lonely1", "apart", ""},
		{"lonely2", "apart", ""},
	} {
		spaces[c.name] = h.Container(c.name)
		args := []string{"attach", c.name, c.network}
		if c.publish != "" {
			args = append(args, "-p", c.publish)
		}
		must(t, h, args...)
		spaces[c.name].Serve("tcp", ":80")
	}
	var all sync.WaitGroup // what does not get through takes its time
	for _, test := range []struct {
		from    *host.Namespace
		to      string
		reaches bool
	}{
		{h.Outside, "192.0.2.2:8080", true},
		{h.Outside, "10.40.0.2:80", false},
		{spaces["neighbour"].Namespace, "10.40.0.2:80", true},
		{spaces["stranger"].Namespace, "10.40.0.2:80", false},
		{h.Namespace, "10.40.0.2:80", true},
		{h.Outside, "10.40.2.2:80", false},
		{spaces["inner1"].Namespace, "10.40.2.3:80", true},
		{spaces["lonely1"].Namespace, "10.40.3.3:80", false},
	} {
		all.Go(func() {
			reply, err := test.from.Expecting(test.reaches).Request("tcp", test.to)
			if (err == nil) != test.reaches {
				t.Errorf("%s to %s: got %q, %v, want it to get through: %v", test.from.Name, test.to, reply.Server, err, test.reaches)
			}
		})
	}
	for name, reaches := range map[string]bool{"site": true, "lonely1": true, "inner1": false} {
		all.Go(func() {
			if err := spaces[name].Expecting(reaches).Ping(netip.MustParseAddr("192.0.2.1")); (err == nil) != reaches {
				t.Errorf("%s to the world: %v, want it to get through: %v", name, err, reaches)
			}
		})
	}
	all.Wait()
}
