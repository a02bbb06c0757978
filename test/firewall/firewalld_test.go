package firewall

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/trestle-cni/trestle/test/host"
)

// fakeFirewalld answers, on a real bus, what firewalld answers to those who bind
// sources to zones (firewalld.dbus(5), org.fedoraproject.FirewallD1.zone).
type fakeFirewalld struct {
	mu    sync.Mutex
	bound map[string]string // source to zone
}

func exception(code, format string, args ...any) *dbus.Error {
	return dbus.NewError("org.fedoraproject.FirewallD1.Exception", []any{code + ": " + fmt.Sprintf(format, args...)})
}

// AddSource is addSource.
func (f *fakeFirewalld) AddSource(zone, source string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch bound := f.bound[source]; {
	case zone != "trusted" && zone != "pods":
		return "", exception("INVALID_ZONE", "%s", zone)
	case bound == zone:
		return "", exception("ZONE_ALREADY_SET", "'%s' already bound to '%s'", source, zone)
	case bound != "":
		return "", exception("ZONE_CONFLICT", "'%s' already bound to '%s'", source, bound)
	}
	f.bound[source] = zone
	return zone, nil
}

// RemoveSource is removeSource.
func (f *fakeFirewalld) RemoveSource(zone, source string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch bound := f.bound[source]; {
	case bound == "":
		return "", exception("UNKNOWN_SOURCE", "'%s' is not in any zone", source)
	case bound != zone:
		return "", exception("ZONE_CONFLICT", "'%s' bound to '%s'", source, bound)
	}
	delete(f.bound, source)
	return zone, nil
}

// QuerySource is querySource.
func (f *fakeFirewalld) QuerySource(zone, source string) (bool, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bound[source] == zone, nil
}

func (f *fakeFirewalld) sources() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for source, zone := range f.bound {
		all = append(all, zone+" "+source)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/><allow send_destination="*"/></policy></busconfig>`

// startBus starts a system bus of the host's own.
func (w walled) startBus() {
	w.t.Helper()
	err := w.Do(func() error {
		if err := os.MkdirAll("/run/dbus", 0o755); err != nil {
			return err
		}
		return os.WriteFile("/run/bus.conf", []byte(busConfig), 0o644)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	stop := w.Start(host.Command{Args: []string{"dbus-daemon", "--nofork", "--config-file=/run/bus.conf"}})
	answers := func() error { // its socket is there some time before it listens
		conn, err := net.Dial("unix", "/run/dbus/system_bus_socket")
		if err != nil {
			return err
		}
		return conn.Close()
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("the bus said: %s", stop())
		}
	})
	host.Await(w.t, "the bus is up", func() bool { return w.Do(answers) == nil })
}

// startFirewalld takes firewalld's name on the bus.
func (w walled) startFirewalld() (f *fakeFirewalld, stop func()) {
	w.t.Helper()
	f = &fakeFirewalld{bound: map[string]string{}}
	var conn *dbus.Conn
	err := w.Do(func() (err error) {
		conn, err = dbus.Connect("unix:path=/run/dbus/system_bus_socket")
		return err
	})
	if err == nil {
		names := map[string]string{"AddSource": "addSource", "RemoveSource": "removeSource", "QuerySource": "querySource"}
		err = conn.ExportWithMap(f, names, "/org/fedoraproject/FirewallD1", "org.fedoraproject.FirewallD1.zone")
	}
	if err == nil {
		_, err = conn.RequestName("org.fedoraproject.FirewallD1", dbus.NameFlagDoNotQueue)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	stop = func() { _ = conn.Close() } // twice where the test stops it
	w.t.Cleanup(stop)
	return f, stop
}

func TestFirewalld(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.startBus()
	c, d := w.container(1, 5), w.container(1, 6)
	must := func(call host.Call) {
		t.Helper()
		if err := w.Exec(call).Err(); err != nil {
			t.Fatalf("%s: %v", call.Command, err)
		}
	}
	must(w.call(c, "ADD", "")) // a bus without firewalld
	must(w.call(c, "DEL", ""))
	f, stop := w.startFirewalld()
	expect := func(want string) {
		t.Helper()
		if got := f.sources(); got != want {
			t.Errorf("got sources %q, want %q", got, want)
		}
	}
	before := w.Dump()
	must(w.call(c, "STATUS", `"backend": "firewalld"`))
	add := w.call(c, "ADD", "")
	add.Strace = &host.Strace{}
	if answer := w.Exec(add); answer.Err() != nil || len(answer.Trace.Execs) != 1 {
		t.Errorf("got %v, programs %q, want the plugin alone", answer.Err(), answer.Trace.Execs)
	}
	const both = "trusted 10.1.0.5/32, trusted fd01::5/128"
	expect(both)
	must(w.call(c, "CHECK", ""))
	must(w.call(c, "ADD", "")) // again: ZONE_ALREADY_SET
	must(w.call(d, "ADD", `"backend": "firewalld", "firewalldZone": "pods", "ingressPolicy": "same-bridge"`))
	expect("pods 10.1.0.6/32, pods fd01::6/128, " + both)
	must(w.call(d, "DEL", "")) // another configuration by now
	expect(both)

	f.mu.Lock()
	delete(f.bound, "10.1.0.5/32") // as a reload does
	f.mu.Unlock()
	err := w.Exec(w.call(c, "CHECK", "")).Err()
	if host.CodeOf(err) != 103 || !strings.Contains(err.Error(), "source 10.1.0.5/32 in zone trusted of firewalld") {
		t.Errorf("CHECK: got %v, want the lost source named", err)
	}
	must(w.call(c, "DEL", ""))
	must(w.call(c, "DEL", ""))
	expect("")
	w.assertFirewall(before)

	// Docker beside it drops what firewalld would accept
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	must(w.call(c, "ADD", ""))
	expect(both)
	if rules := w.MustRun("iptables", "-S"); !strings.Contains(rules, "-s 10.1.0.5/32 -j ACCEPT") {
		t.Errorf("got %s, want the container let through there, too", rules)
	}
	must(w.call(c, "DEL", ""))
	expect("")
	w.MustRun("iptables", "-P", "FORWARD", "ACCEPT")
	w.assertFirewall(before)

	err = w.Exec(w.call(c, "ADD", `"firewalldZone": "none", "ingressPolicy": "same-bridge"`)).Err()
	if host.CodeOf(err) != 7 || !strings.Contains(err.Error(), `firewalldZone: firewalld has no zone "none"`) {
		t.Errorf("got %v, want the zone named", err)
	}
	w.assertFirewall(before)

	must(w.call(c, "ADD", ""))
	stop()
	for _, command := range []string{"CHECK", "ADD"} {
		err := w.Exec(w.call(c, command, `"backend": "firewalld"`)).Err()
		if err == nil || !strings.Contains(err.Error(), "firewalld does not run") {
			t.Errorf("%s without firewalld: got %v", command, err)
		}
	}
	must(w.call(c, "DEL", ""))
	w.assertFirewall(before)
}

// TestFirewalldElsewhere: the bus is where the environment says.
func TestFirewalldElsewhere(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.startBus()
	f, _ := w.startFirewalld()
	w.MustRun("mv", "/run/dbus/system_bus_socket", "/run/dbus/other")
	c := w.container(1, 5)
	call := func(command, address string) host.Call {
		call := w.call(c, command, "")
		call.Env = []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + address}
		return call
	}
	w.Must(w.call(c, "ADD", ""))
	if got := f.sources(); got != "" {
		t.Errorf("got sources %q on a bus that nobody told of", got)
	}
	w.Must(call("ADD", "/run/dbus/other"))
	if got := f.sources(); got == "" {
		t.Error("got no sources")
	}
	// a bus that does not answer
	answer := w.Exec(call("DEL", "/run/nowhere"))
	if err := answer.Err(); err != nil || !strings.Contains(answer.Stderr, "system bus") {
		t.Errorf("got %v, %q, want DEL to leave it and to say so", err, answer.Stderr)
	}
	gc := w.gc()
	gc.Env = call("GC", "/run/dbus/other").Env
	w.Must(gc)
	if got := f.sources(); got != "" {
		t.Errorf("got sources %q after GC", got)
	}
}

// TestFirewalldSwitchOver: as with iptables.
func TestFirewalldSwitchOver(t *testing.T) {
	t.Parallel()
	for _, referenceAdds := range []bool{true, false} {
		w := newWalled(t)
		w.startBus()
		f, _ := w.startFirewalld()
		c := w.container(1, 5)
		add, del := w.call(c, "ADD", ""), w.call(c, "DEL", "")
		del.Config = strings.TrimSuffix(del.Config, "}") + `, "prevResult": ` + firewallPrevResult(c) + "}"
		if referenceAdds {
			add.Plugin = w.Reference("firewall")
		} else {
			del.Plugin = w.Reference("firewall")
		}
		for _, call := range []host.Call{add, del} {
			if err := w.Exec(call).Err(); err != nil {
				t.Fatalf("%s by %s: %v", call.Command, call.Plugin, err)
			}
			if got := f.sources(); (got != "") != (call.Command == "ADD") {
				t.Errorf("after %s by %s: got sources %q", call.Command, call.Plugin, got)
			}
		}
	}
}
