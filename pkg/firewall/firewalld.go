package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// bus is the system bus, connected to when it is needed. Who does not answer in
// time is given up.
type bus struct {
	ctx     context.Context
	cancel  context.CancelFunc
	conn    *dbus.Conn
	running *bool // what was found out of firewalld
}

const (
	busSocket     = "/run/dbus/system_bus_socket"
	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = "/org/fedoraproject/FirewallD1"
	zoneMethods   = firewalldName + ".zone."
	busPatience   = 10 * time.Second
)

// firewalldRuns asks the bus, if there is one, whether anybody has firewalld's name.
func (b *bus) firewalldRuns() (bool, error) {
	if b.running != nil {
		return *b.running, nil
	}
	if _, err := os.Stat(busSocket); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	b.ctx, b.cancel = context.WithTimeout(context.Background(), busPatience)
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(b.ctx)) // whose end closes the connection, also amidst its beginning
	if err != nil {
		return false, fmt.Errorf("connect to the system bus: %w", err)
	}
	b.conn = conn
	var running bool
	if err := conn.BusObject().CallWithContext(b.ctx, "org.freedesktop.DBus.NameHasOwner", 0, firewalldName).Store(&running); err != nil {
		return false, fmt.Errorf("ask the system bus for firewalld: %w", err)
	}
	b.running = &running
	return running, nil
}

func (b *bus) close() error {
	if b.cancel != nil {
		defer b.cancel()
	}
	if b.conn == nil {
		return nil
	}
	if err := b.conn.Close(); err != nil && !errors.Is(err, dbus.ErrClosed) {
		return fmt.Errorf("close the connection to the system bus: %w", err)
	}
	return nil
}

// zonePlace is a zone of firewalld, whose sources are let through.
type zonePlace struct {
	*bus
	zone string
}

// call calls a method of firewalld's, with the zone and the part's address.
func (z zonePlace) call(method string, p part, answer any) error {
	object := z.conn.Object(firewalldName, firewalldPath)
	err := object.CallWithContext(z.ctx, zoneMethods+method, 0, z.zone, source(p)).Store(answer)
	if err != nil {
		return fmt.Errorf("firewalld: %s %s in zone %s: %w", method, source(p), z.zone, err)
	}
	return nil
}

func source(p part) string {
	address, err := netip.ParseAddr(p.value)
	if err != nil {
		return p.value
	}
	return netip.PrefixFrom(address, address.BitLen()).String()
}

// codeOf is how firewalld tells its errors apart: the beginning of the message
// of its one kind of error ("ZONE_ALREADY_SET: '10.1.0.5/32' already bound").
func codeOf(err error) string {
	var failed dbus.Error
	if !errors.As(err, &failed) || len(failed.Body) == 0 {
		return ""
	}
	message, _ := failed.Body[0].(string) // it has always been one
	code, _, _ := strings.Cut(message, ":")
	return code
}

func (z zonePlace) add(parts []part, _ cni.Owner) error {
	running, err := z.firewalldRuns()
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("add addresses to zone %s: firewalld does not run", z.zone)
	}
	for _, p := range parts {
		var zone string
		err := z.call("addSource", p, &zone)
		switch codeOf(err) {
		case "ZONE_ALREADY_SET":
			continue
		case "INVALID_ZONE":
			return cni.ConfigErrorf("firewalldZone: firewalld has no zone %q; make it, or name another: %w", z.zone, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remove: what is bound at run time goes with firewalld itself.
func (z zonePlace) remove(parts []part, _ bool) error {
	running, err := z.firewalldRuns()
	if err != nil || !running {
		return err
	}
	var errs []error
	for _, p := range parts {
		var zone string
		err := z.call("removeSource", p, &zone)
		switch codeOf(err) {
		case "UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE", "ZONE_CONFLICT": // is not there, or is another's
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (z zonePlace) missing(parts []part) ([]string, error) {
	running, err := z.firewalldRuns()
	if err != nil {
		return nil, err
	}
	if !running {
		return []string{"firewalld: want it running, have it stopped"}, nil
	}
	var diffs []string
	for _, p := range parts {
		var there bool
		if err := z.call("querySource", p, &there); err != nil {
			return nil, err
		}
		if !there {
			diffs = append(diffs, fmt.Sprintf("source %s in zone %s of firewalld: want it, have none", source(p), z.zone))
		}
	}
	return diffs, nil
}
