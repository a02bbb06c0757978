package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// bus is the connection to the system bus, made when it is needed. All calls together have
// busPatience.
type bus struct {
	ctx     context.Context
	cancel  context.CancelFunc
	conn    *dbus.Conn
	running *bool // whether firewalld runs; nil until asked
	failed  error // the error of that question, which is asked once: other plugins wait for our lock
}

const (
	busSocket     = "/run/dbus/system_bus_socket"
	busVariable   = "DBUS_SYSTEM_BUS_ADDRESS" // names another socket
	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = "/org/fedoraproject/FirewallD1"
	zoneMethods   = firewalldName + ".zone."
	busPatience   = 10 * time.Second
)

// firewalldRuns says whether firewalld's name has an owner on the bus; false if there is no
// bus.
func (b *bus) firewalldRuns() (bool, error) {
	if b.running == nil {
		var running bool
		running, b.failed = b.ask()
		b.running = &running
	}
	return *b.running, b.failed
}

func (b *bus) ask() (bool, error) {
	if _, err := os.Stat(busSocket); errors.Is(err, fs.ErrNotExist) && os.Getenv(busVariable) == "" {
		return false, nil
	}
	b.ctx, b.cancel = context.WithTimeout(context.Background(), busPatience)
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(b.ctx)) // the context also bounds the handshake
	if err != nil {
		return false, fmt.Errorf("connect to the system bus: %w", err)
	}
	b.conn = conn
	var running bool
	if err := conn.BusObject().CallWithContext(b.ctx, "org.freedesktop.DBus.NameHasOwner", 0, firewalldName).Store(&running); err != nil {
		return false, fmt.Errorf("ask the system bus for firewalld: %w", err)
	}
	return running, nil
}

func (b *bus) close() {
	if b.conn != nil {
		_ = b.conn.Close() // each call was answered
	}
	if b.cancel != nil {
		b.cancel()
	}
}

// zoneBackend is a zone of firewalld. firewalld lets through what comes from its sources.
type zoneBackend struct {
	*bus
	zone string
}

// call calls a method of firewalld with the zone and the entry's address.
func (z zoneBackend) call(method string, e entry, answer any) error {
	object := z.conn.Object(firewalldName, firewalldPath)
	err := object.CallWithContext(z.ctx, zoneMethods+method, 0, z.zone, e.cidr()).Store(answer)
	if err != nil {
		return fmt.Errorf("firewalld: %s %s in zone %s: %w", method, e.cidr(), z.zone, err)
	}
	return nil
}

// codeOf is firewalld's code for an error. All its errors have the same D-Bus name; the code
// begins the message ("ZONE_ALREADY_SET: '10.1.0.5/32' already bound").
func codeOf(err error) string {
	var failed dbus.Error
	if !errors.As(err, &failed) || len(failed.Body) == 0 {
		return ""
	}
	message, _ := failed.Body[0].(string)
	code, _, _ := strings.Cut(message, ":")
	return code
}

func (z zoneBackend) add(entries []entry, _ func() ([]entry, error)) error {
	running, err := z.firewalldRuns()
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("add addresses to zone %s: firewalld does not run", z.zone)
	}
	for _, e := range entries {
		var zone string
		err := z.call("addSource", e, &zone)
		switch codeOf(err) {
		case "ZONE_ALREADY_SET":
			continue
		case "INVALID_ZONE":
			return cni.ConfigErrorf("firewalldZone: firewalld has no zone %q; create it, or name another: %w", z.zone, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remove does nothing if firewalld does not run: sources that were added at run time are
// gone with it.
func (z zoneBackend) remove(entries []entry) error {
	running, err := z.firewalldRuns()
	if err != nil || !running {
		return err
	}
	var errs []error
	for _, e := range entries {
		var zone string
		err := z.call("removeSource", e, &zone)
		switch codeOf(err) {
		case "UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE", "ZONE_CONFLICT": // not there, or in another zone
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (z zoneBackend) diff(entries []entry) ([]string, error) {
	running, err := z.firewalldRuns()
	if err != nil {
		return nil, err
	}
	if !running {
		return []string{"firewalld: want it running, have it stopped"}, nil
	}
	var diffs []string
	for _, e := range entries {
		var there bool
		if err := z.call("querySource", e, &there); err != nil {
			return nil, err
		}
		if !there {
			diffs = append(diffs, fmt.Sprintf("source %s in zone %s of firewalld: want it, have none", e.cidr(), z.zone))
		}
	}
	return diffs, nil
}
