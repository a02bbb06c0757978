package test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// TestAnyOrder takes a host through whatever may happen to it, in random order:
// containers come and go, plugins are killed, rulesets are flushed and older ones
// loaded, records are lost. No DEL ever fails, and after GC with the list of those
// that are alive the kernel and the records tell of them and of nobody else.
// TRESTLE_SEED repeats a run.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TRESTLE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for _, usesIPTables := range []bool{false, true} {
		t.Run(fmt.Sprintf("iptables=%v", usesIPTables), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed)
			if usesIPTables {
				m.h.MustRun("sh", "-ec", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
			}
			began := time.Now()
			for step := 0; step < 250 && time.Since(began) < 15*time.Second && !t.Failed(); step++ {
				m.step()
			}
			m.settle()
			if t.Failed() {
				t.Logf("TRESTLE_SEED=%d; what happened:\n%s", seed, strings.Join(m.log, "\n"))
			}
		})
	}
}

// model is what should be.
type model struct {
	t      *testing.T
	h      *host.Host
	random *rand.Rand
	all    []*attached
	saved  bool // an older ruleset is at savedRuleset
	log    []string
}

const savedRuleset = "/run/older.nft"

// attached is a container and what became of it.
type attached struct {
	*host.Container
	network int
	address string
	port    int
	alive   bool
	intact  bool     // no record was lost since ADD, so that GC makes its rules again
	results []string // of the plugins, in their order
}

// modelPlugins are those of the list; each belongs to the model by what it leaves in
// "inet trestle", "bridge trestle" and /run/trestle, with its owner's label.
func (m *model) modelPlugins(network int) []object {
	policy := []string{"isolated", "same-bridge"}[network]
	return []object{
		{
			"type": "bridge", "bridge": fmt.Sprint("br", network), "isGateway": true, "ipMasq": true, "macspoofchk": true,
			"ipam": object{"type": "static"},
		},
		{"type": "portmap"},
		{"type": "firewall", "ingressPolicy": policy},
	}
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, h: routingHost(t), random: rand.New(rand.NewPCG(seed, 0))}
	for i := range 5 {
		m.all = append(m.all, &attached{Container: m.h.Container(fmt.Sprint("c", i)), network: i % 2, address: fmt.Sprintf("10.%d.0.%d", i%2+1, i+2), port: 8000 + i})
	}
	return m
}

func (m *model) note(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) step() {
	c := m.all[m.random.IntN(len(m.all))]
	steps := []struct {
		weight int
		do     func()
	}{
		{8, func() { m.add(c, false) }},
		{2, func() { m.add(c, true) }},
		{6, func() { m.del(c, false) }},
		{2, func() { m.del(c, true) }},
		{2, m.gc},
		{2, m.restore},
		{2, func() { m.change("flush", "nft flush ruleset") }},
		{2, func() { m.note("save"); m.h.MustRun("sh", "-ec", "nft list ruleset >"+savedRuleset); m.saved = true }},
		{2, func() {
			if m.saved {
				m.change("load an older ruleset", "nft flush ruleset; nft -f "+savedRuleset)
			}
		}},
		{2, m.lose},
		{1, func() { m.endLink(c) }},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	pick := m.random.IntN(total)
	for _, s := range steps {
		if pick -= s.weight; pick < 0 {
			s.do()
			return
		}
	}
}

func (m *model) change(what, script string) {
	m.note("%s", what)
	m.h.MustRun("sh", "-ec", script)
}

// call is that of the list's i-th plugin.
func (m *model) call(c *attached, command string, i int) host.Call {
	config := m.modelPlugins(c.network)[i]
	config["cniVersion"], config["name"] = "1.1.0", fmt.Sprint("n", c.network)
	if config["type"] == "portmap" {
		config["runtimeConfig"] = object{"portMappings": []any{
			object{"hostPort": c.port, "containerPort": 80}, object{"hostPort": c.port, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
		}}
	}
	last := i - 1 // DEL and CHECK have the result of the whole list
	if command != "ADD" {
		last = len(c.results) - 1
	}
	if last >= 0 && len(c.results) > last {
		config["prevResult"] = json.RawMessage(c.results[last])
	}
	data, err := json.Marshal(config)
	if err != nil {
		m.t.Fatal(err)
	}
	call := c.Call(command, fmt.Sprint(config["type"]), string(data))
	call.Args = fmt.Sprintf("IP=%s/24;GATEWAY=10.%d.0.1", c.address, c.network+1)
	return call
}

// kill makes a plugin die at some step of its work.
func (m *model) kill(call *host.Call) {
	syscall := []string{"sendto", "openat", "renameat", "unlinkat", "mkdirat", "close"}[m.random.IntN(6)]
	when := 1 + m.random.IntN(12)
	m.note("  killed at %s %d", syscall, when)
	call.Strace = &host.Strace{Syscalls: syscall, Inject: []string{fmt.Sprintf("%s:signal=KILL:when=%d", syscall, when)}}
}

func (m *model) add(c *attached, killed bool) {
	if c.alive {
		return
	}
	m.del(c, false) // as runtimes do before they try again
	m.note("ADD %s", c.ID)
	c.results = nil
	plugins := len(m.modelPlugins(c.network))
	victim := -1
	if killed {
		victim = m.random.IntN(plugins)
	}
	for i := range plugins {
		call := m.call(c, "ADD", i)
		if i == victim {
			m.kill(&call)
		}
		answer := m.h.Exec(call)
		if i == victim && answer.Trace.Injected > 0 {
			return
		}
		if err := answer.Err(); err != nil {
			m.t.Errorf("ADD of %s by %s: %v", c.ID, call.Plugin, err)
			return
		}
		c.results = append(c.results, answer.Stdout)
	}
	c.alive, c.intact = true, true
}

// del is that of a list: backwards.
func (m *model) del(c *attached, killed bool) {
	m.note("DEL %s", c.ID)
	plugins := len(m.modelPlugins(c.network))
	victim := -1
	if killed {
		victim = m.random.IntN(plugins)
	}
	c.alive = false
	for i := plugins - 1; i >= 0; i-- {
		call := m.call(c, "DEL", i)
		if i == victim {
			m.kill(&call)
		}
		answer := m.h.Exec(call)
		if i == victim && answer.Trace.Injected > 0 {
			return
		}
		if err := answer.Err(); err != nil || answer.Stderr != "" {
			m.t.Errorf("DEL of %s by %s: %v, %q", c.ID, call.Plugin, err, answer.Stderr)
		}
	}
}

// endLink is a namespace that ends and takes its link along, without a DEL.
func (m *model) endLink(c *attached) {
	if c.alive {
		m.note("%s loses its namespace", c.ID)
		c.MustRun("ip", "link", "delete", "eth0")
		c.alive = false
	}
}

func (m *model) gc() {
	m.note("GC")
	for network := range 2 {
		valid := []any{}
		for _, c := range m.all {
			if c.alive && c.network == network {
				valid = append(valid, object{"containerID": c.ID, "ifname": "eth0"})
			}
		}
		for i, config := range m.modelPlugins(network) {
			config["cniVersion"], config["name"], config["cni.dev/valid-attachments"] = "1.1.0", fmt.Sprint("n", network), valid
			data, err := json.Marshal(config)
			if err != nil {
				m.t.Fatal(err)
			}
			if err := m.h.Exec(host.Call{Plugin: fmt.Sprint(config["type"]), Command: "GC", Config: string(data)}).Err(); err != nil {
				m.t.Errorf("GC by plugin %d of network %d: %v", i, network, err)
			}
		}
	}
}

func (m *model) restore() {
	m.note("restore")
	m.h.MustRun(filepath.Join(m.h.Dirs().Trestle, "trestle"), "restore")
}

// lose removes some records, or all.
func (m *model) lose() {
	chance := []float64{0.2, 0.6, 1}[m.random.IntN(3)]
	m.note("lose %v of the records", chance)
	for _, path := range m.files() {
		if m.random.Float64() < chance {
			m.h.MustRun("rm", "-f", path)
		}
	}
	for _, c := range m.all {
		c.intact = false
	}
}

func (m *model) files() []string {
	var paths []string
	err := m.h.Do(func() error {
		return filepath.WalkDir("/run/trestle", func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && !strings.HasSuffix(path, "lock") {
				paths = append(paths, path)
			}
			if os.IsNotExist(err) {
				return nil
			}
			return err
		})
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return paths
}

var ownerComment = regexp.MustCompile(`comment "([^"]+/[^"]*)"`)

// kernelOwners are the labels in rules and elements.
func (m *model) kernelOwners() []string {
	var owners []string
	for _, match := range ownerComment.FindAllStringSubmatch(m.h.MustRun("nft", "list", "ruleset"), -1) {
		owners = append(owners, match[1])
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// recordOwners are the labels in records.
func (m *model) recordOwners() []string {
	var owners []string
	for _, path := range m.files() {
		var r struct {
			Owner struct{ Network, ContainerID, IfName string }
		}
		err := m.h.Do(func() error {
			data, err := os.ReadFile(path)
			if err == nil && json.Unmarshal(data, &r) != nil {
				r.Owner.Network = ""
			}
			return err
		})
		if err != nil {
			m.t.Errorf("record %s: %v", path, err)
		}
		if r.Owner.Network != "" {
			owners = append(owners, r.Owner.Network+"/"+r.Owner.ContainerID+"/"+r.Owner.IfName)
		}
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// settle ends the run: GC, and then the last DELs.
func (m *model) settle() {
	m.gc()
	may, must := map[string]bool{}, map[string]bool{}
	for _, c := range m.all {
		label := fmt.Sprintf("n%d/%s/eth0", c.network, c.ID)
		may[label], may[fmt.Sprintf("n%d/", c.network)] = c.alive, may[fmt.Sprintf("n%d/", c.network)] || c.alive
		must[label] = c.alive && c.intact
		for i := range m.modelPlugins(c.network) {
			if !must[label] {
				continue
			}
			if err := m.h.Exec(m.call(c, "CHECK", i)).Err(); err != nil {
				m.t.Errorf("CHECK of %s, whose records were not lost: %v", c.ID, err)
			}
		}
	}
	for where, owners := range map[string][]string{"kernel": m.kernelOwners(), "records": m.recordOwners()} {
		for _, o := range owners {
			if !may[o] {
				m.t.Errorf("the %s tells of %s, who is gone", where, o)
			}
		}
		for o := range must {
			if must[o] && !slices.Contains(owners, o) {
				m.t.Errorf("the %s does not tell of %s", where, o)
			}
		}
	}
	for _, c := range m.all {
		m.del(c, false)
	}
	m.gc()
	if left := append(m.kernelOwners(), m.recordOwners()...); len(left) > 0 {
		m.t.Errorf("got %v left", left)
	}
	if tables := m.h.MustRun("nft", "list", "tables"); strings.Contains(tables, "trestle") {
		m.t.Errorf("got %s, want idle tables gone", tables)
	}
}
