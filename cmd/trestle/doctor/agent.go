package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/hosts"
)

// agent finds a host that is configured for networks over several hosts and whose agent is
// not running.
func agent(h *Host) []Finding {
	if h.Node == nil || h.Node.Running || h.Node.State == hosts.Left {
		return nil
	}
	f := Finding{
		Severity: Fault, Subject: "trestle-node",
		Text:    "it is not running, though " + hosts.SettingsPath + " says that it should be: routes to other hosts stay as they are; hosts that join or leave are not noticed, and nothing is repaired",
		Command: "systemctl start trestle-node",
	}
	if h.Node.Updated.IsZero() {
		f.Text = "it has not run since the host was booted, and " + hosts.SettingsPath + " says that it should be running: containers on other hosts cannot be reached"
	}
	if h.systemd {
		f.fix = startAgent
	}
	return []Finding{f}
}

// runsSystemd says whether systemd booted the host, as sd_booted(3) does.
func runsSystemd() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

func startAgent(ctx context.Context, _ Tools) error {
	said, err := exec.CommandContext(ctx, "systemctl", "start", "trestle-node").CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("systemctl start trestle-node: %w: %s", err, strings.TrimSpace(string(said)))
	}
	return err
}

// store finds an agent without a connection to its store. Everything keeps working, but
// changes are not noticed.
func store(h *Host) []Finding {
	if h.Node == nil || !h.Node.Running || h.Node.Store.Connected {
		return nil
	}
	name := h.Node.Store.Name
	if name == "" {
		name = "its store"
	}
	text := fmt.Sprintf("not connected to %s since %s: everything stays as it is, and hosts that join or move are not noticed", name, h.Node.Store.Since.Format(time.RFC3339))
	if h.Node.Store.Error != "" {
		text += " (" + h.Node.Store.Error + ")"
	}
	return []Finding{{Severity: Warning, Subject: "trestle-node", Text: text, Command: "trestle cluster nodes   # asks the same store"}}
}

// fenced finds a host whose subnets were given to another host.
func fenced(h *Host) []Finding {
	if h.Node == nil || h.Node.State != hosts.Fenced {
		return nil
	}
	var lost, restart []string
	for _, s := range h.Node.Lost {
		lost = append(lost, s.Subnet.String())
	}
	for _, c := range h.Node.Restart {
		restart = append(restart, fmt.Sprintf("%s (%s)", c.ID, c.Address))
	}
	f := Finding{
		Severity: Fault, Subject: "trestle-node",
		Text:    fmt.Sprintf("this host is fenced: %s of it was given to another host", some(lost)),
		Command: "trestle node accept",
	}
	if len(restart) > 0 {
		f.Text += "; only this host reaches the containers with addresses in it: " + some(restart)
		f.Command += "   # when these containers have been restarted"
	}
	return []Finding{f}
}

// suspect finds a host that ignores removals because its store has lost what it knew.
func suspect(h *Host) []Finding {
	return inState(h, hosts.Suspect, Finding{
		Severity: Warning, Text: "this host does not trust its store, and ignores removals: ",
		Command: "trestle cluster nodes   # then trestle cluster restore, or, if they are gone, trestle node accept",
	})
}

// outdated finds an agent that is older than its cluster asks for.
func outdated(h *Host) []Finding {
	return inState(h, hosts.Outdated, Finding{
		Severity: Fault,
		Command:  "systemctl restart trestle-node   # when the newer one is installed",
	})
}

// leaving finds a host that has begun to leave the network and has not finished.
func leaving(h *Host) []Finding {
	return inState(h, hosts.Leaving, Finding{
		Severity: Warning, Text: "this host is leaving the network, and has not finished: ",
		Command: "trestle node leave   # goes on, or says what prevents it",
	})
}

// inState is the finding if the agent is in the state, with the agent's reason after its text.
func inState(h *Host, state string, f Finding) []Finding {
	if h.Node == nil || h.Node.State != state {
		return nil
	}
	f.Subject, f.Text = "trestle-node", f.Text+h.Node.Why
	return []Finding{f}
}

// some lists the first few names, and how many more there are.
func some(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
