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

// agent finds a host that shall be one of several, and whose agent does not run.
func agent(h *Host) []Finding {
	if h.Node == nil || h.Node.Running || h.Node.State == hosts.Left {
		return nil
	}
	f := Finding{
		Severity: Fault, Subject: "trestle-node",
		Text:    "it does not run, and " + hosts.SettingsPath + " says that it shall: routes to other hosts stay as they are, and nobody follows who joins or leaves, or repairs what is changed",
		Command: "systemctl start trestle-node",
	}
	if h.Node.Updated.IsZero() {
		f.Text = "it has not run since the host was booted, and " + hosts.SettingsPath + " says that it shall: other hosts' containers are not reached"
	}
	if h.systemd {
		f.fix = startAgent
	}
	return []Finding{f}
}

// runsSystemd is sd_booted(3).
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

// store finds an agent that is cut off from its store: nothing is lost by it, and nothing
// new is heard of.
func store(h *Host) []Finding {
	if h.Node == nil || !h.Node.Running || h.Node.Store.Connected {
		return nil
	}
	name := h.Node.Store.Name
	if name == "" {
		name = "its store"
	}
	text := fmt.Sprintf("not connected to %s since %s: everything stays as it is, and hosts that join or move are not heard of", name, h.Node.Store.Since.Format(time.RFC3339))
	if h.Node.Store.Error != "" {
		text += " (" + h.Node.Store.Error + ")"
	}
	return []Finding{{Severity: Warning, Subject: "trestle-node", Text: text, Command: "trestle cluster nodes   # asks the same store"}}
}

// fenced finds a host whose subnets were given to another.
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
		f.Text += "; nobody but this host reaches the containers that have addresses of it: " + some(restart)
		f.Command += "   # when these containers have been started anew"
	}
	return []Finding{f}
}

// suspect finds a host that believes no removal, since its store does not look like the
// one that it was.
func suspect(h *Host) []Finding {
	if h.Node == nil || h.Node.State != hosts.Suspect {
		return nil
	}
	return []Finding{{
		Severity: Warning, Subject: "trestle-node",
		Text:    "this host suspects its store, and takes no removal for true: " + h.Node.Why,
		Command: "trestle cluster nodes   # then trestle cluster restore, or, if they are gone, trestle node accept",
	}}
}

// some names a few of many.
func some(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
