package bridge

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestGCCost bounds what GC asks of the kernel for each further attachment that the runtime
// names as valid: its record and its host port once each, and its link's name. Whether it
// is alive is not asked, and its lease not read. Elements are listed once.
func TestGCCost(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	var valid []any
	gc := func(attachments int) host.Trace {
		for i := len(valid); i < attachments; i++ {
			c := h.Container(fmt.Sprintf("c%d", i))
			c.MustAdd(host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24"), "runtimeConfig": object{"portMappings": []any{object{"hostPort": 8000 + i, "containerPort": 80}}}}))
			valid = append(valid, object{"containerID": c.ID, "ifname": "eth0"})
		}
		answer := h.Exec(host.Call{
			Plugin: "bridge", Command: "GC", Strace: &host.Strace{},
			Config: host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24"), "cni.dev/valid-attachments": valid}),
		})
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		return answer.Trace
	}
	const few, more = 5, 40
	gc(few) // makes what it makes once
	first, last := gc(few), gc(few+more)
	// it is a whole number: what the Go runtime makes by chance is less than half of one for each
	each := (countCalls(last) - countCalls(first) + more/2) / more
	t.Logf("%d system calls for each attachment, %d messages beside %d and %d beside %d", each, first.Calls["sendto"], few, last.Calls["sendto"], few+more)
	if each > 10 {
		t.Errorf("got %d system calls for each attachment, want at most 10: beside %d %v, beside %d %v", each, few, first.Calls, few+more, last.Calls)
	}
	if n := last.Calls["name_to_handle_at"]; n > 0 {
		t.Errorf("GC asks %d times whether a container is alive that the runtime names as valid", n)
	}
	if got, want := last.Calls["sendto"], first.Calls["sendto"]; got > want {
		t.Errorf("got %d messages beside %d attachments, %d beside %d", got, few+more, want, few)
	}
}

// TestGCFindsLinks: the links that are not named as those of valid attachments are looked
// at, however many there are of others', and whatever they are named by now.
func TestGCFindsLinks(t *testing.T) {
	t.Parallel()
	config := host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24")})
	for _, others := range []int{0, 40} {
		h := host.NewRouting(t)
		kept, gone, renamed := h.Container("kept"), h.Container("gone"), h.Container("renamed")
		for _, c := range []*host.Container{kept, gone, renamed} {
			c.MustAdd(config)
		}
		port := func(id string) string {
			return h.MustRun("sh", "-c", "ip -o link | grep 'alias trestle:.*/"+id+"/' | sed 's/^[0-9]*: //; s/[@:].*//' | tr -d '\n'")
		}
		h.MustRun("sh", "-c", "ip link set "+port("renamed")+" down; ip link set "+port("renamed")+" name mine")
		h.MustRun("sh", "-c", fmt.Sprintf("for i in $(seq %d); do ip link add other$i type bridge; done", others))
		h.Must(host.Call{Plugin: "bridge", Command: "GC", Config: host.BridgeConfig(object{
			"ipam": host.Leases("10.9.0.0/24"), "cni.dev/valid-attachments": []any{object{"containerID": "kept", "ifname": "eth0"}},
		})})
		if port("kept") == "" || port("gone") != "" || port("renamed") != "" {
			t.Errorf("beside %d other links: got ports %q, %q, %q, want the first alone", others, port("kept"), port("gone"), port("renamed"))
		}
		left := h.MustRun("sh", "-c", "ip -o link | grep -c ': other' || true")
		if left != fmt.Sprintln(others) {
			t.Errorf("got %s of %d other links left", left, others)
		}
	}
}

// TestGCBelievesTheList: what the runtime names as valid is kept, also where its network
// namespace is gone, until the runtime names it no more.
func TestGCBelievesTheList(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{
		"ipam": host.Leases("10.9.0.0/24"), "runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}},
	})
	c := h.Container("stopped")
	c.MustAdd(config)
	c.Remove()
	gc := func(valid ...any) {
		h.Must(host.Call{Plugin: "bridge", Command: "GC", Config: host.BridgeConfig(object{
			"ipam": host.Leases("10.9.0.0/24"), "cni.dev/valid-attachments": append([]any{}, valid...),
		})})
	}
	has := func() (lease, mapping bool) {
		dump := h.Dump()
		return strings.Contains(dump, "/10.9.0.2"), strings.Contains(dump, "8080")
	}
	gc(object{"containerID": "stopped", "ifname": "eth0"})
	if lease, mapping := has(); !lease || !mapping {
		t.Errorf("named as valid: got lease %t, mapped port %t, want both kept", lease, mapping)
	}
	gc()
	if lease, mapping := has(); lease || mapping {
		t.Errorf("not named: got lease %t, mapped port %t, want neither", lease, mapping)
	}
}
