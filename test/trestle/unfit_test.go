package trestle

import (
	"strings"
	"testing"
)

// TestUnfitFiles: FIFOs, devices and huge files among records, leases, cached results and
// lists keep no command waiting, and none from its work. That each ends is what host.Run asks.
func TestUnfitFiles(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	h.MustRun("sh", "-ec", `
		mkdir -p /run/trestle/node /run/trestle/run /run/trestle/tuning/lab /run/trestle/macspoofchk/lab /run/trestle/translations.shared/x /run/cni/tuning /etc/cni/net.d/lab
		for d in $(find /run/trestle /run/cni /var/lib/cni -type d) /etc/cni/net.d/lab; do
			mkfifo $d/fifo $d/fifo.json; ln -s /dev/zero $d/zero; truncate -s 1G $d/huge
		done
		cd /etc/cni/net.d; mkfifo 50-fifo.conflist 51-fifo.conf; ln -s /dev/zero 52-zero.json; truncate -s 1G 53-huge.conflist
		mkfifo /run/trestle/node/status.json /run/trestle/node/lock /run/trestle/run/.fifo /var/lib/cni/networks/lab/10.40.0.77 /var/lib/cni/networks/lab/.trestle/owner.fifo`)
	for _, command := range []string{
		"ls", "ls lab", "ports", "ip ls", "ip verify", "status", "doctor", "validate", "metrics", "topology", "report /run/report.html", "network ls", "network inspect lab",
		"explain web --to 192.0.2.1:80", "gc --dry-run", "node status", "restore", "ip repair", "gc", "ls",
	} {
		output := run(t, h, strings.Fields(command)...)
		if strings.Contains(output.Stderr, "goroutine ") {
			t.Errorf("%s: got %s", command, output.Stderr)
		}
		if strings.HasPrefix(command, "ls") && !strings.Contains(output.Stdout, "8080->80/tcp") {
			t.Errorf("%s: got %q, want what there is", command, output.Stdout)
		}
	}
	if output := run(t, h, "validate"); output.Code != 2 || !strings.Contains(output.Stderr, "not a regular file") || !strings.Contains(output.Stderr, "/etc/cni/net.d/5") {
		t.Errorf("validate: got %d: %q, want a file named", output.Code, output.Stderr)
	}
	if got := h.MustRun("ls", "-A", "/run/trestle/translations/lab"); strings.Count(got, "\n") != 1 {
		t.Errorf("got %q among the records after a GC, want the one record", got)
	}

	// what is lost is restored, and everything is freed, as without them
	h.MustRun("nft", "flush", "ruleset")
	if got := must(t, h, "restore"); !strings.Contains(got, "lab: restored") {
		t.Errorf("got %q, want the network's rules restored", got)
	}
	h.MustRun("mkfifo", "/var/lib/cni/results/other-web-eth0")
	for range 2 {
		must(t, h, "detach", "web")
		must(t, h, "attach", "web", "lab", "-p", "8080:80")
	}
}

// TestUnfitCachedResult: a cached result that is no file concerns the attachment that it is named
// after, and nobody else: not the container's other attachments, and not the next command, if that
// attachment was a killed run's.
func TestUnfitCachedResult(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	const results = "/var/lib/cni/results/"
	must(t, h, "network", "create", "far", "--subnet", "10.41.0.0/24")
	must(t, h, "attach", "web", "lab")
	must(t, h, "attach", "web", "far")
	h.MustRun("sh", "-ec", "rm "+results+"lab-web-eth0; mkfifo "+results+"lab-web-eth0")
	for range 2 {
		output := run(t, h, "detach", "web")
		want := "detach web from network lab: cached result: open " + results + "lab-web-eth0: not a regular file of at most 64 MiB; remove it"
		if output.Code != 1 || !strings.Contains(output.Stderr, want) || strings.Contains(output.Stderr, "network far") {
			t.Errorf("detach from both networks: got %d: %q, want %q and no word of network far", output.Code, output.Stderr, want)
		}
		if got := must(t, h, "ls"); strings.Contains(got, "far") || !strings.Contains(got, "lab") {
			t.Errorf("got %q, want web on network lab alone", got)
		}
		must(t, h, "attach", "web", "far")
	}
	h.MustRun("rm", results+"lab-web-eth0")
	must(t, h, "detach", "web")

	h.MustRun("mkfifo", results+"lab-web-eth3")
	if output := run(t, h, "attach", "web", "lab", "--ifname", "eth3"); output.Code != 1 || !strings.Contains(output.Stderr, results+"lab-web-eth3: not a regular file") {
		t.Errorf("attach where its result cannot be cached: got %d: %q, want the file named", output.Code, output.Stderr)
	}

	// a run that was killed: its file is there, and nobody holds it
	h.Container("killed")
	must(t, h, "attach", "killed", "lab")
	h.MustRun("sh", "-ec", "rm "+results+"lab-killed-eth0; mkfifo "+results+"lab-killed-eth0; mkdir -p /run/trestle/run; echo '{}' >/run/trestle/run/killed")
	output := run(t, h, "attach", "web", "far")
	if output.Code != 0 || !strings.Contains(output.Stderr, results+"lab-killed-eth0: not a regular file") {
		t.Errorf("attach of another: got %d: %q, want success, and the file named", output.Code, output.Stderr)
	}
	must(t, h, "detach", "web")
}
