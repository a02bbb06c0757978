package nat

import (
	"os/exec"
	"strings"
	"testing"
)

// TestFormerChainsLoadedAgain: if a ruleset that was saved under an earlier release is loaded,
// the first use removes its chains, which have other names.
func TestFormerChainsLoadedAgain(t *testing.T) {
	for name, use := range map[string]func(testHost) error{
		"ADD":     func(h testHost) error { return h.AddPorts(owner("blue", "c1"), twoPorts()) },
		"restore": testHost.Restore,
	} {
		t.Run(name, func(t *testing.T) {
			h := openHost(t, IPTables)
			load := exec.Command("iptables-restore")
			load.Stdin = strings.NewReader(`*nat
:TRESTLE-PORTS - [0:0]
:TRESTLE-P-0123456789abcdef - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j TRESTLE-PORTS
-A TRESTLE-PORTS -p tcp -m tcp --dport 9000 -m comment --comment "blue/c9/eth0" -j TRESTLE-P-0123456789abcdef
-A TRESTLE-P-0123456789abcdef -p tcp -m tcp --dport 9000 -j DNAT --to-destination 10.1.0.9:80
COMMIT
`)
			if out, err := load.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			must(t, use(h))
			if got := saved(t); strings.Contains(got, "TRESTLE-P") {
				t.Errorf("got\n%s\nwant nothing of the earlier release", got)
			}
			must(t, h.Release(owner("blue", "c1")))
		})
	}
}
