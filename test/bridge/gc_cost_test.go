package bridge

import (
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestGCCost bounds what GC asks of the kernel for each further attachment that it keeps:
// of its record, its namespace, its host port and its lease once each. Links and
// elements are listed, each once, whatever their number.
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
	each := float64(countCalls(last)-countCalls(first)) / more
	t.Logf("%.1f system calls for each attachment, %d messages beside %d and %d beside %d", each, first.Calls["sendto"], few, last.Calls["sendto"], few+more)
	if each > 16 {
		t.Errorf("got %.1f system calls for each attachment, want at most 16: beside %d %v, beside %d %v", each, few, first.Calls, few+more, last.Calls)
	}
	if got, want := last.Calls["sendto"], first.Calls["sendto"]; got > want {
		t.Errorf("got %d messages beside %d attachments, %d beside %d", got, few+more, want, few)
	}
}
