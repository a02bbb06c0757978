package iptables

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/test/golden"
)

func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // its thread ends with the test, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Fatalf("make namespaces: %v", err)
	}
	golden.OwnXtablesLock(t)
}

func shell(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// TestVariants: a variant is returned if it has the table, and not before.
func TestVariants(t *testing.T) {
	for _, test := range []struct {
		name, make string
		want       []string
	}{
		{"a host that uses nftables alone", "nft add table ip filter; nft add chain ip filter forward", nil},
		{"nf_tables", "iptables-nft -P FORWARD DROP", []string{"iptables-nft"}},
		{"nf_tables, of the chain INPUT alone", "iptables-nft -A INPUT -j ACCEPT", []string{"iptables-nft"}},
		{"legacy", "iptables-legacy -P FORWARD DROP", []string{"iptables-legacy"}},
		{"both", "iptables-legacy -P FORWARD DROP; iptables-nft -P FORWARD DROP", []string{"iptables-nft", "iptables-legacy"}},
		{"the other family", "ip6tables-nft -P FORWARD DROP", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNamespace(t)
			c := nft.Open(t.TempDir())
			defer c.Close()
			shell(t, test.make)
			got, err := IPv4().Variants(c, "filter")
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestSaveAndRestore(t *testing.T) {
	for _, program := range []string{"iptables-nft", "ip6tables-legacy"} {
		t.Run(program, func(t *testing.T) {
			inNamespace(t)
			c := nft.Open(t.TempDir())
			defer c.Close()
			has := func(want bool) {
				t.Helper()
				if got, err := HasChain(c, program, "filter", "OURS"); err != nil || got != want {
					t.Errorf("got %v, %v, want %v", got, err, want)
				}
			}
			has(false)
			rule := "-A OURS -o br0 -j ACCEPT"
			if err := Restore(program, "filter", []string{":OURS - [0:0]", rule, "-I FORWARD 1 -j OURS"}); err != nil {
				t.Fatal(err)
			}
			has(true)
			table, err := Save(program, "filter")
			if err != nil || !slices.Equal(table.In["OURS"], []string{rule}) || !slices.Equal(table.To["OURS"], []string{"-A FORWARD -j OURS"}) || table.Policies["FORWARD"] != "ACCEPT" {
				t.Errorf("got %v, %v, want what was restored", table, err)
			}
			if err := Restore(program, "filter", []string{"-A OURS -j DROP", "-A NOBODYS -j DROP"}); err == nil {
				t.Error("got no error for a chain that is not there")
			}
			if after, err := Save(program, "filter"); err != nil || !slices.Equal(after.Rules, table.Rules) {
				t.Errorf("got %q, %v, want nothing changed", after.Rules, err)
			}
		})
	}
}

// TestNoProgram: the error names the program, without words that make go-cni ignore it.
func TestNoProgram(t *testing.T) {
	inNamespace(t)
	if err := IPv4().Usable("filter"); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	check := func(err error, program string) {
		t.Helper()
		if !errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), program) || strings.Contains(err.Error(), "not found") {
			t.Errorf("got %v, want %s named", err, program)
		}
	}
	_, err := Save("ip6tables", "filter")
	check(err, "ip6tables-save")
	check(Restore("iptables-nft", "filter", []string{"-F"}), "iptables-nft-restore")
	check(IPv4().Usable("filter"), "iptables")
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := IPv4().Usable("filter"); err == nil || errors.Is(err, ErrNoProgram) {
		t.Errorf("got %v, want that the program fails", err)
	}
}
