package host

import (
	"net/netip"
	"path/filepath"
	"regexp"
)

// Must runs the calls one after the other, and fails the test unless each of them
// succeeds. The answer is the last one's.
func (h *Host) Must(calls ...Call) (answer Answer) {
	h.t.Helper()
	for _, call := range calls {
		answer = h.Exec(call)
		if err := answer.Err(); err != nil {
			h.t.Fatalf("%s of %s by %s, %s: %v", call.Command, call.ContainerID, call.Plugin, call.Config, err)
		}
	}
	return answer
}

// MustAdd attaches the container by the bridge plugin, and returns the addresses
// of the result.
func (c *Container) MustAdd(config string) (addresses []netip.Addr) {
	c.t.Helper()
	result, err := c.host.Exec(c.Call("ADD", "bridge", config)).Result()
	if err != nil {
		c.t.Fatalf("ADD of %s: %v", c.ID, err)
	}
	for _, ip := range result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		addresses = append(addresses, a.Unmap())
	}
	return addresses
}

// MustDel takes the container off, by the bridge plugin, which must have nothing
// to say.
func (c *Container) MustDel(config string) {
	c.t.Helper()
	if answer := c.host.Exec(c.Call("DEL", "bridge", config)); answer.Err() != nil || answer.Stdout != "" {
		c.t.Fatalf("DEL of %s: %v, answer %q", c.ID, answer.Err(), answer.Stdout)
	}
}

// Reference is the path of one of the reference's plugins, for Call.Plugin.
func (h *Host) Reference(plugin string) string { return filepath.Join(h.dirs.Reference, plugin) }

// Answered is a result as it was written, for comparisons of two suites.
type Answered struct {
	CNIVersion  string
	Interfaces  []Object
	IPs, Routes []Object
	DNS         Object
}

var vethName = regexp.MustCompile(`^veth[0-9a-f]+$`)

// DropChoices takes out of a result what suites choose for themselves: names and
// MACs, but for one that a test asked for, and the MTU, which ours reports.
func (a Answered) DropChoices() {
	for _, link := range a.Interfaces {
		if link["mac"] != "c2:11:22:33:44:55" {
			link["mac"] = "any"
		}
		delete(link, "mtu")
		if name, ok := link["name"].(string); ok && vethName.MatchString(name) {
			link["name"] = "veth"
		}
	}
}
