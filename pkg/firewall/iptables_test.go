package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestIPTablesRulesets: what iptables has of a container of both families, and of one that
// has left.
func TestIPTablesRulesets(t *testing.T) {
	golden.EnterNetNS(t)
	h := Open(record.Open(t.TempDir()))
	defer h.Close()
	attached := result(t, `{"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "x"}],
		"ips": [{"address": "10.1.0.5/24", "interface": 1}, {"address": "fd00::5/64", "interface": 1}]}`)
	plan := func() Rules {
		t.Helper()
		wanted, err := h.Plan(Config{Policy: policyOpen, AdminChain: defaultAdminChain}, attached)
		if err != nil {
			t.Fatal(err)
		}
		return wanted
	}
	var undo cni.Undo
	if err := h.Add(owner, plan(), &undo); err != nil {
		t.Fatal(err)
	}
	golden.File(t, "open.iptables", savedFilter(t))
	if diffs, err := h.Diff(owner, plan()); err != nil || len(diffs) > 0 {
		t.Errorf("got %q, %v, want no difference", diffs, err)
	}
	if _, err := h.Release(owner, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	golden.File(t, "released.iptables", savedFilter(t))
}

// savedFilter is table filter of both families, without what differs from time to time.
func savedFilter(t *testing.T) string {
	t.Helper()
	var all string
	for _, program := range []string{"iptables-nft-save", "ip6tables-nft-save"} {
		out, err := exec.Command(program, "-t", filterTable).Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") {
				all += regexp.MustCompile(` \[\d+:\d+\]`).ReplaceAllString(line, "")
			}
		}
	}
	return all
}

// TestTableMadeMeanwhile: somebody makes the table, and the admin's chain, while an ADD waits
// for the lock. They stay, and there is one jump to our chain.
func TestTableMadeMeanwhile(t *testing.T) {
	golden.EnterNetNS(t)
	h := Open(record.Open(t.TempDir()))
	defer h.Close()
	result, err := cni.ParseResult("result", []byte(`{"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "x", "mac": ""}],
		"ips": [{"address": "10.1.0.5/24", "interface": 1}]}`), "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := h.Plan(Config{Policy: policyOpen, AdminChain: defaultAdminChain}, result)
	if err != nil {
		t.Fatal(err)
	}
	script := `iptables-nft -N CNI-FORWARD; iptables-nft -N CNI-ADMIN
		iptables-nft -A CNI-ADMIN -s 192.0.2.1 -j DROP`
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var undo cni.Undo
	if err := h.Add(owner, wanted, &undo); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("iptables-nft", "-S").CombinedOutput()
	if got := string(out); err != nil || !strings.Contains(got, "-A CNI-ADMIN -s 192.0.2.1/32 -j DROP") || strings.Count(got, "-j CNI-FORWARD") != 1 {
		t.Errorf("got %v, %s, want the admin's rule kept, and one jump", err, got)
	}
}

// TestRuleGoneMeanwhile: somebody flushes the table between a DEL's iptables-save and its
// iptables-restore, or deletes our chain between those of an ADD. Neither command fails.
func TestRuleGoneMeanwhile(t *testing.T) {
	golden.EnterNetNS(t)
	golden.OwnXtablesLock(t)
	h := Open(record.Open(t.TempDir()))
	defer h.Close()
	rules := Rules{Policy: policyOpen, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.5")}, IPTables: ifThere, Programs: []string{"iptables-legacy"}}
	entries, backend := rules.entries(owner), ipBackend{"iptables-legacy", defaultAdminChain, h.conn}
	if err := backend.add(entries, h.allEntries); err != nil {
		t.Fatal(err)
	}
	afterTheLook(t, "iptables-legacy-save", "iptables-legacy -F")
	if err := backend.remove(entries); err != nil {
		t.Error(err)
	}
	if err := backend.add(entries, h.allEntries); err != nil {
		t.Fatal(err)
	}
	afterTheLook(t, "iptables-legacy-save", "iptables-legacy -F; iptables-legacy -X")
	other := Rules{Policy: policyOpen, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.6")}, IPTables: ifThere, Programs: rules.Programs}
	if err := backend.add(other.entries(owner), h.allEntries); err != nil {
		t.Error(err)
	}
	if missing, err := backend.diff(other.entries(owner)); err != nil || len(missing) > 0 {
		t.Errorf("got %v, %v missing, want none", missing, err)
	}
}

// afterTheLook replaces a program by one that does the same and, after the first call, runs a
// command.
func afterTheLook(t *testing.T, program, then string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s \"$@\"\nstatus=$?\nmkdir %s/done 2>&- && { %s; }\nexit $status\n", path, dir, then)
	if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}
