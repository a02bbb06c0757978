package soak

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

const (
	scratch = "/run/soak"
	// Rulesets are saved by the program that each backend's users have.
	save = `mkdir -p /run/soak; for f in inet bridge; do nft list table $f trestle 2>&-; done >/run/soak/saved.nft || true
		iptables-save >/run/soak/saved.v4; ip6tables-save >/run/soak/saved.v6`
	load  = `{ echo flush ruleset; cat /run/soak/saved.nft; } | nft -f -; iptables-restore /run/soak/saved.v4; ip6tables-restore /run/soak/saved.v6`
	flush = `nft flush ruleset`
)

// disturb does what may befall a host while plugins are at work on it.
func (w *world) disturb(d disturbance) {
	random := rand.New(rand.NewPCG(d.seed, 0))
	w.clock.Add(1)
	switch d.what {
	case flushRules:
		w.script("flush", flush)
	case saveRules:
		w.script("save the ruleset", save)
		w.saved = true
	case loadRules:
		if w.saved {
			w.script("load the saved ruleset", load)
		}
	case damageIndex:
		w.damage(random)
	case wipeRun:
		w.still.Lock() // who was amidst its work had its lock there
		defer w.still.Unlock()
		w.wipe()
	case restore:
		w.restore(noKill)
	case killRestore:
		w.restore(kill{at: random.Float64()})
	case collect:
		w.collect()
	case collectList:
		w.still.Lock() // the spec has no GC beside an ADD
		defer w.still.Unlock()
		w.collectList()
	}
}

func (w *world) script(what, script string) {
	w.note("%s", what)
	if output, err := w.h.Run(host.Command{Args: []string{"sh", "-ec", script}}); err != nil || output.Code != 0 {
		w.fault(nil, "%s: %v %s", what, err, output.Stderr)
	}
	w.note("  done")
}

func (w *world) wipe() {
	w.lost.Store(w.clock.Add(1))
	w.script("wipe /run", "rm -rf /run/trestle /run/cni")
}

func (w *world) trestle(k kill, args ...string) {
	key := strings.Join(args, " ")
	w.note("trestle %s, to be killed: %v", key, k)
	a, took, err := w.run(append([]string{filepath.Join(w.h.Dirs().Trestle, "trestle")}, args...), nil, "", w.moment(key, k))
	switch {
	case err != nil || !a.killed && a.Code != 0:
		w.fault(nil, "trestle %s: %v, exit status %d, %s%s", key, err, a.Code, a.Stdout, a.Stderr)
	case !a.killed:
		w.learn(key, took)
	}
	w.note("  done")
}

func (w *world) restore(k kill) { w.trestle(k, "restore") }
func (w *world) collect()       { w.trestle(noKill, "gc", "--plugins", w.h.Dirs().Trestle) }

// collectList is the runtime's GC, in the order of libcni.
func (w *world) collectList() {
	w.note("GC")
	for _, n := range w.plan.networks {
		valid := []any{}
		for _, a := range w.all {
			if a.network.name == n.name && a.state == there {
				valid = append(valid, object{"containerID": a.id(), "ifname": "eth0"})
			}
		}
		for i := range chain {
			config := n.config(i)
			config["cniVersion"], config["name"], config["cni.dev/valid-attachments"] = "1.1.0", n.name, valid
			call := host.Call{Plugin: chain[i], Command: "GC", Config: mustJSON(config)}
			answer := w.exec(call, []string{"CNI_COMMAND=GC", "CNI_PATH=" + w.h.Dirs().Trestle}, noKill)
			if err := answer.Err(); err != nil {
				w.fault(nil, "GC of %s by %s: %v", n.name, chain[i], err)
			}
		}
	}
	for _, a := range w.all { // whom GC has taken
		if a.state == limbo {
			a.state, a.result, a.addresses = gone, "", nil
			a.note("taken by GC")
		}
	}
	w.note("  done")
}

// damage does something to one file of the leases' index, which is never the truth.
func (w *world) damage(random *rand.Rand) {
	var paths []string
	err := w.h.Do(func() error {
		for _, n := range w.plan.networks {
			found, err := filepath.Glob(filepath.Join("/var/lib/cni/networks", n.name, ".trestle", "*"))
			if err != nil {
				return err
			}
			cursors, err := filepath.Glob(filepath.Join("/var/lib/cni/networks", n.name, "last_reserved_ip.*"))
			if err != nil {
				return err
			}
			paths = append(append(paths, found...), cursors...)
		}
		if len(paths) == 0 {
			return nil
		}
		path := paths[random.IntN(len(paths))]
		how := random.IntN(5)
		w.note("damage %s: %d", path, how)
		return damageFile(path, how, random)
	})
	if err != nil && !os.IsNotExist(err) { // its owner took it away meanwhile
		w.fault(nil, "damage: %v", err)
	}
	w.note("  done")
}

func damageFile(path string, how int, random *rand.Rand) error {
	if how == 0 {
		return os.Remove(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	switch how {
	case 1: // truncated
		return os.Truncate(path, random.Int64N(int64(len(data))+1))
	case 2: // a bit
		if len(data) > 0 {
			data[random.IntN(len(data))] ^= 1 << random.IntN(8)
		}
	case 3: // what a file system has after a crash
		clear(data)
	default: // anything
		for i := range data {
			data[i] = byte(random.Uint32())
		}
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0) // made by no one but its owner
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

// boot fakes one: no namespace and no link outlives it, rules and /run may.
func (w *world) boot(b *boot) {
	w.boots++
	if b != nil {
		w.note("boot %d: %+v", w.boots, *b)
		for _, a := range w.all {
			a.note("the host boots")
			a.removeNetNS()
		}
		w.script("no links", `for link in $(ip -o link show type veth | sed -n 's/^[0-9]*: \(veth[^@:]*\).*/\1/p') $(ls /sys/class/net | grep '^br[0-9]\|^bwp'); do
			ip link delete $link 2>&- || true; done`)
		if !b.keepsRules {
			w.script("no rules", flush)
		}
		if !b.keepsRun {
			w.wipe()
		}
		w.lost.Store(w.clock.Add(1))
		for _, a := range w.all {
			a.renew()
		}
	}
	if err := w.h.Do(func() error { return newBootID(w.boots) }); err != nil {
		w.t.Fatalf("another boot id: %v", err)
	}
}

// newBootID makes all that was there before of another boot: the first process began just now.
func newBootID(boot int) error {
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	stat, err := os.ReadFile("/proc/1/stat")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(stat))
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return err
	}
	fields[21] = fmt.Sprint(up.Nano()/10_000_000 + 1) // starttime, in clock ticks
	for path, content := range map[string]string{
		"/proc/sys/kernel/random/boot_id": fmt.Sprintf("00000000-0000-0000-0000-%012d\n", boot),
		"/proc/1/stat":                    strings.Join(fields, " ") + "\n",
	} {
		file := filepath.Join(scratch, filepath.Base(path))
		if _, err := os.Stat(file); err == nil {
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	return nil
}

// files are the paths and contents of all below the directories, but for locks, which name
// who had them last.
func files(dirs ...string) (map[string]string, error) {
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case os.IsNotExist(err):
				return nil
			case err != nil || entry.IsDir() || entry.Name() == "lock":
				return err
			case entry.Type()&fs.ModeSymlink != 0:
				all[path], err = os.Readlink(path)
				return err
			}
			data, err := os.ReadFile(path)
			all[path] = string(data)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
