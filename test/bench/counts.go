package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/trestle-cni/trestle/test/host"
)

// namedNetwork is a row of what is counted.
type namedNetwork struct {
	name    string
	network network
}

// counted are the networks whose attachments are counted.
func counted() []namedNetwork {
	with := func(n network, edits ...func(*network)) network {
		for _, edit := range edits {
			edit(&n)
		}
		return n
	}
	ports := func(count int) func(*network) { return func(n *network) { n.masq, n.ports = true, count } }
	alone, dual, ptp := func(n *network) { n.alone = true }, func(n *network) { n.dualStack = true }, func(n *network) { n.ptp = true }
	one, chain, reference, nft := network{oneExec: true}, network{}, network{reference: true}, network{reference: true, backend: "nftables"}
	rows := []namedNetwork{
		{"trestle, bridge", chain},
		{"…, ipMasq", with(chain, ports(0))},
		{"…, 1 port, one process", with(one, ports(1))},
		{"…, 10 ports, one process", with(one, ports(10))},
		{"…, 1 port, one process, the first and last", with(one, ports(1), alone)},
		{"…, 1 port, one process, dual-stack", with(one, ports(1), dual)},
		{"…, 1 port, a chain", with(chain, ports(1))},
		{"…, 10 ports, a chain", with(chain, ports(10))},
		{"reference, bridge", reference},
	}
	for _, backend := range backends {
		n := network{reference: true, backend: backend}
		rows = append(rows, namedNetwork{"reference, " + backend + ", ipMasq", with(n, ports(0))}, namedNetwork{"…, 1 port", with(n, ports(1))}, namedNetwork{"…, 10 ports", with(n, ports(10))})
	}
	return append(rows,
		namedNetwork{"reference, nftables, 1 port, the first and last", with(nft, ports(1), alone)},
		namedNetwork{"…, dual-stack", with(nft, ports(1), dual)},
		namedNetwork{"…, ptp", with(nft, ports(1), ptp)},
	)
}

// counts is what the kernel is asked for, by strace and perf: nearly the same on every machine.
func counts(t host.T, most int) (string, error) {
	added := "| ADD | processes | system calls | sockets | netlink sends | netlink messages | files opened | grace periods | of them expedited |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
	deleted := strings.Replace(added, "ADD", "DEL", 1)
	type row struct {
		name  string
		count func(host.T) (add, del tally, err error)
	}
	rows := []row{{"an empty Go program", countEmpty}, {"raw netlink, 1 port", countRaw}}
	for _, c := range counted() {
		rows = append(rows, row{c.name, func(t host.T) (tally, tally, error) { return countChain(t, c.network) }})
	}
	for _, row := range rows[:min(most, len(rows))] {
		own := &scope{T: t}
		add, del, err := row.count(own)
		own.close()
		if err != nil {
			return "", fmt.Errorf("%s: %w", row.name, err)
		}
		added, deleted = added+add.line(row.name), deleted+del.line(row.name)
	}
	return added + "\n" + deleted, nil
}

// tally is what was counted of one command.
type tally struct {
	execs, calls, sockets, sends, messages, opens int
	// Without perf nobody knows the grace periods.
	known              bool
	periods, expedited int
}

func (t tally) line(name string) string {
	periods, expedited := "-", "-"
	if t.known {
		periods, expedited = fmt.Sprint(t.periods), fmt.Sprint(t.expedited)
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %s | %s |\n", name, t.execs, t.calls, t.sockets, t.sends, t.messages, t.opens, periods, expedited)
}

// watcher runs a command and adds what it sees of it to a tally.
type watcher func(h *host.Host, c host.Command, to *tally) (host.Output, error)

// cycle has ADD and DEL run under each watcher in turn.
func cycle(t host.T, h *host.Host, run func(command string, watch watcher, to *tally) error) (add, del tally, err error) {
	watchers := []watcher{byStrace}
	if file := filepath.Join(t.TempDir(), "perf"); hasPerf(h, file) {
		watchers = append(watchers, func(h *host.Host, c host.Command, to *tally) (host.Output, error) { return byPerf(h, c, to, file) })
	}
	for _, watch := range watchers {
		if err := run("ADD", watch, &add); err != nil {
			return add, del, fmt.Errorf("ADD: %w", err)
		}
		if err := run("DEL", watch, &del); err != nil {
			return add, del, fmt.Errorf("DEL: %w", err)
		}
	}
	return add, del, nil
}

func byStrace(h *host.Host, c host.Command, to *tally) (host.Output, error) {
	output, trace, err := h.Trace(host.Strace{}, c)
	to.add(trace)
	return output, err
}

func (t *tally) add(trace host.Trace) {
	t.execs += len(trace.Execs)
	for _, n := range trace.Calls {
		t.calls += n
	}
	t.sockets += trace.Calls["socket"]
	t.sends += trace.Calls["sendto"] + trace.Calls["sendmsg"]
	t.opens += trace.Calls["openat"] + trace.Calls["open"]
	for line := range strings.Lines(trace.Text) {
		if sent.MatchString(line) {
			t.messages += strings.Count(line, "nlmsg_len=")
		}
	}
}

var sent = regexp.MustCompile(`^\d+ +(sendto|sendmsg)\(`)

// perf records where processes go to sleep.
func perf(file string, args ...string) []string {
	return append([]string{"perf", "record", "-q", "-e", "sched:sched_switch", "-g", "-o", file, "--"}, args...)
}

// hasPerf runs it on the host, where it may mount what it needs.
func hasPerf(h *host.Host, file string) bool {
	output, err := h.Run(host.Command{Args: perf(file, "true")})
	return err == nil && output.Code == 0
}

func byPerf(h *host.Host, c host.Command, to *tally, file string) (host.Output, error) {
	c.Args = perf(file, c.Args...)
	output, err := h.Run(c)
	if err != nil || output.Code != 0 {
		return output, err
	}
	script, err := h.Run(host.Command{Args: []string{"perf", "script", "-i", file, "-F", "comm,trace,ip,sym"}})
	to.waits(script.Stdout)
	return output, err
}

// waits adds the grace periods that processes waited for: where they went to sleep in one
// of the kernel's functions that do so.
func (t *tally) waits(script string) {
	t.known = true
	for sleep := range strings.SplitSeq(script, "\n\n") {
		switch {
		case strings.Contains(sleep, "prev_state=R") || !gracePeriod.MatchString(sleep):
		case strings.Contains(sleep, "synchronize_rcu_expedited"):
			t.expedited++
			fallthrough
		default:
			t.periods++
		}
	}
}

// kernel/rcu/tree.c, tree_exp.h, update.c; the last one waits for another who waits
// (net/netfilter/nf_tables_api.c).
var gracePeriod = regexp.MustCompile(`\b(rcu_barrier|kvfree_rcu_barrier|synchronize_rcu|synchronize_rcu_normal|synchronize_rcu_expedited|__wait_rcu_gp|nf_tables_trans_destroy_flush_work)\b`)

func countEmpty(t host.T) (add, del tally, err error) {
	h, program := host.New(t), build(t, "empty")
	return cycle(t, h, func(_ string, watch watcher, to *tally) error {
		_, err := watch(h, host.Command{Args: []string{program}}, to)
		return err
	})
}

func countRaw(t host.T) (add, del tally, err error) {
	h := host.New(t)
	program, args := rawArgs(t, h)
	return cycle(t, h, func(command string, watch watcher, to *tally) error {
		output, err := watch(h, host.Command{Args: append([]string{program, command}, args...)}, to)
		return errors.Join(err, failure(output))
	})
}

func failure(o host.Output) error {
	if o.Code == 0 {
		return nil
	}
	return fmt.Errorf("exit status %d: %s%s", o.Code, o.Stdout, o.Stderr)
}

// countChain runs the list's plugins as a runtime does, DEL backwards: of the second
// container of a network, or of the only one.
func countChain(t host.T, n network) (add, del tally, err error) {
	h := host.New(t)
	r := caller{Host: h, dir: h.Dirs().Trestle, path: n.path(t)}
	if n.reference {
		r.dir = h.Dirs().Reference
	}
	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal([]byte(n.list()), &list); err != nil {
		return add, del, err
	}
	r.plugins = list.Plugins
	if !n.alone {
		r.c, r.ports = h.Container("resident"), []map[string]any{{"hostPort": 9000, "containerPort": 80, "protocol": "tcp"}}
		unseen := func(h *host.Host, c host.Command, _ *tally) (host.Output, error) { return h.Run(c) }
		if err := r.run("ADD", unseen, nil); err != nil {
			return add, del, err
		}
	}
	r.c, r.ports = h.Container("c1"), n.portMappings()
	return cycle(t, h, r.run)
}

// caller runs plugins for a container.
type caller struct {
	*host.Host
	dir     string // of the plugins
	path    string // PATH, if it is another
	plugins []map[string]any
	c       *host.Container
	ports   any
	prev    json.RawMessage // the last ADD's result
}

func (r *caller) run(command string, watch watcher, to *tally) error {
	if command == "ADD" {
		r.prev = nil
	}
	for i := range r.plugins {
		if command == "DEL" {
			i = len(r.plugins) - 1 - i
		}
		config, err := r.config(i)
		if err != nil {
			return err
		}
		env := []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + r.c.ID, "CNI_NETNS=" + r.c.NetNS, "CNI_IFNAME=eth0", "CNI_PATH=" + r.dir}
		if r.path != "" {
			env = append(env, "PATH="+r.path)
		}
		program := filepath.Join(r.dir, fmt.Sprint(r.plugins[i]["type"]))
		output, err := watch(r.Host, host.Command{Args: []string{program}, Env: env, Stdin: config}, to)
		if err := errors.Join(err, failure(output)); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
		if command == "ADD" {
			r.prev = json.RawMessage(output.Stdout)
		}
	}
	return nil
}

// config is that of the i-th plugin, as libcni gives it: who has the capability maps the ports.
func (r *caller) config(i int) (string, error) {
	config := r.plugins[i]
	config["cniVersion"], config["name"] = "1.0.0", "bench"
	if config["capabilities"] != nil {
		config["runtimeConfig"] = map[string]any{"portMappings": r.ports}
	}
	delete(config, "prevResult")
	if r.prev != nil {
		config["prevResult"] = r.prev
	}
	data, err := json.Marshal(config)
	return string(data), err
}
