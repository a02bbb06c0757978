package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/trestle-cni/trestle/test/host"
)

// counts is what the kernel is asked for, by strace: the same on every machine.
func counts(t host.T) (string, error) {
	own := &scope{T: t}
	defer own.close()
	text := "| | processes | system calls | sockets | netlink messages sent | files opened |\n|---|--:|--:|--:|--:|--:|\n"
	h := host.New(own)
	output, trace, err := h.Trace(host.Strace{}, host.Command{Args: []string{buildEmpty(own)}})
	if err != nil || output.Code != 0 {
		return "", fmt.Errorf("empty program: %w %s", err, output.Stderr)
	}
	text += tally{"an empty Go program", []host.Trace{trace}}.line()
	one := network{masq: true, ports: 1, oneExec: true}
	chain := network{masq: true, ports: 1}
	for _, v := range []struct {
		name    string
		network network
	}{
		{"trestle, bridge alone, 1 port", one},
		{"trestle, bridge, portmap", chain},
		{"reference, nftables", network{masq: true, ports: 1, backend: "nftables", reference: true}},
		{"reference, iptables", network{masq: true, ports: 1, backend: "iptables", reference: true}},
	} {
		lines, err := countChain(own, v.name, v.network)
		if err != nil {
			return "", fmt.Errorf("%s: %w", v.name, err)
		}
		text += lines
	}
	return text, nil
}

type tally struct {
	name   string
	traces []host.Trace
}

func (t tally) line() string {
	var execs, calls, sockets, sends, opens int
	for _, trace := range t.traces {
		execs += len(trace.Execs)
		for _, n := range trace.Calls {
			calls += n
		}
		sockets += trace.Calls["socket"]
		sends += trace.Calls["sendto"] + trace.Calls["sendmsg"]
		opens += trace.Calls["openat"] + trace.Calls["open"]
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d |\n", t.name, execs, calls, sockets, sends, opens)
}

// countChain runs the list's plugins as a runtime does: ADD, and DEL backwards, of the second
// container of a network, both with ports.
func countChain(t host.T, name string, n network) (string, error) {
	h := host.New(t)
	r := caller{Host: h, path: h.Dirs().Trestle}
	if n.reference {
		r.path = h.Dirs().Reference
	}
	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal([]byte(n.list()), &list); err != nil {
		return "", err
	}
	r.plugins = list.Plugins
	r.c, r.ports = h.Container("resident"), []map[string]any{{"hostPort": 9000, "containerPort": 80, "protocol": "tcp"}}
	if _, err := r.run("ADD"); err != nil {
		return "", err
	}
	r.c, r.ports, r.prev = h.Container("c1"), n.portMappings(), nil
	add, err := r.run("ADD")
	if err != nil {
		return "", err
	}
	del, err := r.run("DEL")
	return tally{name + ", ADD", add}.line() + tally{name + ", DEL", del}.line(), err
}

// caller runs plugins for a container.
type caller struct {
	*host.Host
	path    string
	plugins []map[string]any
	c       *host.Container
	ports   any
	prev    json.RawMessage // the last ADD's result
}

func (r *caller) run(command string) (traces []host.Trace, err error) {
	for i := range r.plugins {
		if command == "DEL" {
			i = len(r.plugins) - 1 - i
		}
		config := r.plugins[i]
		config["cniVersion"], config["name"] = "1.0.0", "bench"
		if config["capabilities"] != nil { // as libcni does: who has the capability maps the ports
			config["runtimeConfig"] = map[string]any{"portMappings": r.ports}
		}
		delete(config, "prevResult")
		if r.prev != nil {
			config["prevResult"] = r.prev
		}
		data, err := json.Marshal(config)
		if err != nil {
			return nil, err
		}
		call := r.c.Call(command, filepath.Join(r.path, fmt.Sprint(config["type"])), string(data))
		call.Path, call.Strace = r.path, &host.Strace{}
		answer := r.Exec(call)
		if err := answer.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w%s", command, err, strings.TrimSpace(answer.Stderr))
		}
		traces = append(traces, answer.Trace)
		if command == "ADD" {
			r.prev = json.RawMessage(answer.Stdout)
		}
	}
	return traces, nil
}
