package suite

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
// TRESTLE_SEED takes another walk; 0 is one that nobody has taken yet.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	seed := uint64(1)
	if text := os.Getenv("TRESTLE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for _, usesIPTables := range []bool{false, true} {
		t.Run(fmt.Sprintf("iptables=%v", usesIPTables), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed, usesIPTables)
			for step := 0; step < 150 && !t.Failed(); step++ { // as many on any machine, or it would be another walk
				m.step()
			}
			m.end()
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
	ids    int  // of containers that took the place of others
	former bool // one of an earlier build's is at formerRuleset
	log    []string
	// usesIPTables: masquerade and port mappings are iptables', whose rules nft cannot
	// save, and the firewall lets through a chain that drops.
	usesIPTables bool
}

// Rulesets are saved by the program that each backend's users have.
const (
	savedRuleset  = "/run/older"
	formerRuleset = "/run/former"
)

// attached is a container and what became of it.
type attached struct {
	*host.Container
	network int
	address string
	port    int
	alive   bool
	intact  bool     // no record was lost since ADD, so that GC makes its rules again
	open    bool     // a killed plugin or a lost link has left what may count as alive
	results []string // of the plugins, in their order
}

// modelPlugins are those of the list; each belongs to the model by what it leaves in
// "inet trestle", "bridge trestle" and /run/trestle, with its owner's label.
func (m *model) modelPlugins(network int) []object {
	policy := []string{"isolated", "published"}[network]
	backend := map[bool]string{false: "nftables", true: "iptables"}[m.usesIPTables]
	return []object{
		{
			"type": "bridge", "bridge": fmt.Sprint("br", network), "isGateway": true, "ipMasq": true, "macspoofchk": true, "ipMasqBackend": backend,
			"ipam": object{"type": "static"},
		},
		{"type": "portmap", "backend": backend},
		{"type": "firewall", "ingressPolicy": policy, "internal": network == 1},
	}
}

func newModel(t *testing.T, seed uint64, usesIPTables bool) *model {
	m := &model{t: t, h: host.NewRouting(t), random: rand.New(rand.NewPCG(seed, 0)), usesIPTables: usesIPTables}
	for i := range 5 {
		c := &attached{network: i % 2, address: fmt.Sprintf("10.%d.0.%d", i%2+1, i+2), port: 8000 + i%4} // the last one wants the first one's port
		m.all = append(m.all, c)
	}
	m.all[4].network = 1 // and is on the other network
	m.all[4].address = "10.2.0.6"
	for i, c := range m.all {
		c.Container = m.h.Container(fmt.Sprint("c", i))
	}
	if usesIPTables {
		m.h.MustRun("sh", "-ec", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
	}
	if m.h.Dirs().Previous != "" {
		m.saveFormer()
	}
	return m
}

// saveFormer saves what the build before has as a ruleset.
func (m *model) saveFormer() {
	c := m.all[0]
	for _, command := range []string{"ADD", "DEL"} {
		for i := range m.modelPlugins(c.network) {
			if command == "DEL" {
				i = len(m.modelPlugins(c.network)) - 1 - i
			}
			call := m.call(c, command, i)
			call.Plugin, call.Path = filepath.Join(m.h.Dirs().Previous, call.Plugin), m.h.Dirs().Previous
			answer := m.h.Exec(call)
			if err := answer.Err(); err != nil {
				m.t.Fatalf("%s by the build before: %v", call.Plugin, err)
			}
			if command == "ADD" {
				c.results = append(c.results, answer.Stdout)
			}
		}
		if command == "ADD" {
			m.h.MustRun("sh", "-ec", fmt.Sprintf(host.SaveRuleset, formerRuleset))
		}
	}
	c.results, m.former = nil, true
	m.change("begin", "nft flush ruleset; rm -rf /run/trestle")
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
		{2, func() { m.gc(false) }},
		{1, func() { m.gc(true) }},
		{2, func() { m.restore(false) }},
		{1, func() { m.restore(true) }},
		{2, func() { m.change("flush", "nft flush ruleset") }},
		{2, func() { m.change("save", fmt.Sprintf(host.SaveRuleset, savedRuleset)); m.saved = true }},
		{2, func() {
			if m.saved {
				m.change("load an older ruleset", fmt.Sprintf(host.LoadRuleset, savedRuleset))
			}
		}},
		{1, func() {
			if m.former {
				m.change("load one of the build before", fmt.Sprintf(host.LoadRuleset, formerRuleset))
			}
		}},
		{2, m.lose},
		{1, func() { m.endLink(c) }},
		{2, func() { m.endNetNS(c) }},
		{1, m.reboot},
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
func (m *model) kill() *host.Strace {
	syscall := []string{"sendto", "openat", "renameat", "unlinkat", "mkdirat", "symlinkat", "close"}[m.random.IntN(7)]
	when := 1 + m.random.IntN(12)
	m.note("  killed at %s %d", syscall, when)
	return &host.Strace{Syscalls: syscall, Inject: []string{fmt.Sprintf("%s:signal=KILL:when=%d", syscall, when)}}
}

// victim is the plugin that is killed, if one is.
func (m *model) victim(killed bool, plugins int) int {
	if !killed {
		return -1
	}
	return m.random.IntN(plugins)
}

// rivals says whether the container must, or may, be refused its port.
func (m *model) rivals(c *attached) (must, may bool) {
	for _, other := range m.all {
		if other != c && other.port == c.port {
			must, may = other.alive && other.intact, other.alive || other.open
		}
	}
	return must, may
}

func (m *model) add(c *attached, killed bool) {
	if c.alive {
		return
	}
	m.del(c, false) // as runtimes do before they try again
	m.note("ADD %s", c.ID)
	must, may := m.rivals(c)
	c.results, c.open = nil, true
	plugins := len(m.modelPlugins(c.network))
	victim := m.victim(killed, plugins)
	for i := range plugins {
		call := m.call(c, "ADD", i)
		if i == victim {
			call.Strace = m.kill()
		}
		answer := m.h.Exec(call)
		if i == victim && answer.Trace.Injected > 0 {
			return
		}
		err := answer.Err()
		if call.Plugin == "portmap" && (err == nil && must || host.CodeOf(err) == 102 && may) {
			if err == nil {
				m.t.Errorf("ADD of %s by portmap: got no error, want its port taken", c.ID)
			}
			m.note("  refused")
			m.del(c, false)
			return
		}
		if err != nil {
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
	victim := m.victim(killed, plugins)
	c.alive, c.open = false, true
	for i := plugins - 1; i >= 0; i-- {
		call := m.call(c, "DEL", i)
		if i == victim {
			call.Strace = m.kill()
		}
		answer := m.h.Exec(call)
		if i == victim && answer.Trace.Injected > 0 {
			return
		}
		if err := answer.Err(); err != nil || answer.Stderr != "" {
			m.t.Errorf("DEL of %s by %s: %v, %q", c.ID, call.Plugin, err, answer.Stderr)
		}
	}
	c.open = false
}

// endLink is a link that goes without a DEL, while its namespace stays.
func (m *model) endLink(c *attached) {
	if c.alive {
		m.note("%s loses its link", c.ID)
		c.MustRun("ip", "link", "delete", "eth0")
		c.alive = false
		c.open = true
	}
}

// endNetNS is a namespace that ends without a DEL. Another container has the address
// and the ports then: nothing stands in its way.
func (m *model) endNetNS(c *attached) {
	if !c.alive {
		return
	}
	m.note("%s loses its namespace", c.ID)
	var result struct{ Interfaces []struct{ Name string } }
	if err := json.Unmarshal([]byte(c.results[0]), &result); err != nil {
		m.t.Fatal(err)
	}
	c.Remove()
	m.h.MustRun("timeout", "60", "sh", "-c", fmt.Sprintf("while ip link show %s >/dev/null 2>&1; do sleep .01; done", result.Interfaces[1].Name))
	c.alive, c.open, c.results = false, false, nil
	m.ids++
	c.Container = m.h.Container(fmt.Sprint("c", len(m.all)+m.ids))
}

// reboot leaves no link, and what of records and rules somebody keeps over a boot.
func (m *model) reboot() {
	m.note("reboot")
	for _, c := range m.all {
		c.MustRun("sh", "-c", "ip link delete eth0 2>&-; true") // which a killed plugin may have left
		c.alive, c.open, c.results = false, false, nil
	}
	m.h.MustRun("sh", "-c", "ip link delete br0; ip link delete br1; true")
	if m.random.IntN(2) == 0 {
		m.change("  without records", "rm -rf /run/trestle")
	} else {
		m.change("  with records", `find /run/trestle -type f 2>&- | xargs -r sed -i -e 's/,"crc32":[0-9]*//' -e 's/"boot":"[^"]*"/"boot":"another"/' -e 's/"time":"[^"]*"/"time":"2001-02-03T04:05:06Z"/'`)
	}
	if m.random.IntN(2) == 0 {
		m.change("  without rules", "nft flush ruleset")
	}
}

func (m *model) gc(killed bool) {
	m.note("GC")
	for network := range 2 {
		valid := []any{}
		for _, c := range m.all {
			if c.alive && c.network == network {
				valid = append(valid, object{"containerID": c.ID, "ifname": "eth0"})
			}
		}
		plugins := m.modelPlugins(network)
		victim := m.victim(killed, len(plugins))
		for i, config := range plugins {
			config["cniVersion"], config["name"], config["cni.dev/valid-attachments"] = "1.1.0", fmt.Sprint("n", network), valid
			data, err := json.Marshal(config)
			if err != nil {
				m.t.Fatal(err)
			}
			call := host.Call{Plugin: fmt.Sprint(config["type"]), Command: "GC", Config: string(data)}
			if i == victim {
				call.Strace = m.kill()
			}
			answer := m.h.Exec(call)
			if err := answer.Err(); err != nil && (i != victim || answer.Trace.Injected == 0) {
				m.t.Errorf("GC by plugin %d of network %d: %v", i, network, err)
			}
		}
	}
}

func (m *model) restore(killed bool) {
	m.note("restore")
	args := []string{filepath.Join(m.h.Dirs().Trestle, "trestle"), "restore"}
	if !killed {
		if output, err := m.h.Run(host.Command{Args: args}); err != nil || output.Code != 0 {
			m.t.Errorf("restore: %v, %s", err, output.Stderr)
		}
		return
	}
	output, trace, err := m.h.Trace(*m.kill(), host.Command{Args: args})
	if err == nil && trace.Injected == 0 && output.Code != 0 {
		err = fmt.Errorf("exit status %d: %s", output.Code, output.Stderr)
	}
	if err != nil {
		m.t.Errorf("restore: %v", err)
	}
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

var ownerComment = regexp.MustCompile(`comment "([^" ]+/[^" ]*)[" ]`)

// kernelOwners are the labels in rules and elements.
func (m *model) kernelOwners() []string {
	var owners []string
	for _, match := range ownerComment.FindAllStringSubmatch(m.h.MustRun("sh", "-ec", host.ListRuleset+"; iptables-save; ip6tables-save"), -1) {
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

// end ends the run: GC, and then the last DELs.
func (m *model) end() {
	m.gc(false)
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
	m.gc(false)
	if left := append(m.kernelOwners(), m.recordOwners()...); len(left) > 0 {
		m.t.Errorf("got %v left", left)
	}
	if tables := m.h.MustRun("nft", "list", "tables"); strings.Contains(tables, "trestle") {
		m.t.Errorf("got %s, want idle tables gone", tables)
	}
}
