// Package ipambench measures our host-local beside the reference's: what a lease
// costs as the leases of a network grow in number, and how long the slowest of a
// crowd waits.
package ipambench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

// Options say what is measured.
type Options struct {
	Ours, Reference string   // the two programs
	Dirs            []string // where the leases lie in turn; each may be of another file system
	Leases          []int    // how many there are already
	Rounds          int      // the reference is asked for fewer where it is slow
	Crowd           int      // how many callers come at once; 0 leaves that out
}

// Run measures and writes tables. CPU is user and system time of the process
// itself, in ms, median of the rounds; the two programs take turns, each in a
// directory of its own.
func Run(w io.Writer, o Options) error {
	for _, dir := range o.Dirs {
		temp, err := os.MkdirTemp(dir, "trestle-ipam-bench")
		if err != nil {
			return err
		}
		err = runIn(w, o, temp)
		if removeErr := os.RemoveAll(temp); err == nil {
			err = removeErr
		}
		host.ForgetDataDir(temp)
		if err != nil {
			return err
		}
	}
	return nil
}

func runIn(w io.Writer, o Options, dir string) error {
	netns, stop, err := startNetNS()
	if err != nil {
		return err
	}
	defer stop()
	rows, err := measure(o, dir, netns)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "host-local on %s: CPU ms, median of %d; \"at 0\" compares ours with ours in the first row\n", fileSystem(dir), o.Rounds)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "leases\tADD\treference\tratio\tat 0\tDEL\treference\tratio\tat 0\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%d", r.leases)
		for verb := range verbs {
			ours, reference := median(r.ours.took[verb]), median(r.reference.took[verb])
			fmt.Fprintf(table, "\t%s\t%s\tx%.1f\tx%.2f", ms(ours), ms(reference), ratio(reference, ours), ratio(ours, median(rows[0].ours.took[verb])))
		}
		fmt.Fprintln(table, "\t")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if o.Crowd > 0 {
		if err := crowd(w, o, dir, netns); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w)
	return err
}

// row is both programs beside the same number of leases.
type row struct {
	leases          int
	ours, reference *caller
}

var verbs = []string{"ADD", "DEL"}

// measure goes through all rows in each round, so that whatever else goes on
// disturbs all alike.
func measure(o Options, dir, netns string) ([]row, error) {
	var rows []row
	for _, n := range o.Leases {
		data := filepath.Join(dir, fmt.Sprint(n))
		r := row{
			n,
			&caller{program: o.Ours, data: data + "-ours", netns: netns, rounds: o.Rounds},
			&caller{program: o.Reference, data: data + "-reference", netns: netns, rounds: o.Rounds},
		}
		if n >= 5000 { // a tenth of a second and more for each call
			r.reference.rounds = min(o.Rounds, 7)
		}
		for _, c := range []*caller{r.ours, r.reference} {
			if err := c.fill(n); err != nil {
				return nil, err
			}
			if _, err := c.call("ADD", "first"); err != nil { // ours builds its index now
				return nil, err
			}
		}
		rows = append(rows, r)
	}
	for round := range o.Rounds {
		for _, r := range rows {
			if err := errors.Join(r.ours.round(round), r.reference.round(round)); err != nil {
				return nil, fmt.Errorf("%d leases: %w", r.leases, err)
			}
		}
	}
	return rows, nil
}

// crowd has many callers lease at once, again and again, and shows how long the
// slowest waits beside the one in the middle.
func crowd(w io.Writer, o Options, dir, netns string) error {
	for _, p := range []struct{ name, program string }{{"ours", o.Ours}, {"reference", o.Reference}} {
		c := &caller{program: p.program, data: filepath.Join(dir, "crowd-"+p.name), netns: netns}
		if err := c.fill(0); err != nil {
			return err
		}
		const turns = 20
		took := make(chan []time.Duration)
		failed := make(chan error, o.Crowd)
		for i := range o.Crowd {
			go func() {
				var mine []time.Duration
				for turn := range turns {
					one, err := c.call("ADD", fmt.Sprintf("c%d-%d", i, turn))
					if err != nil {
						failed <- err
						break
					}
					mine = append(mine, one.wall)
				}
				took <- mine
			}()
		}
		var all []time.Duration
		for range o.Crowd {
			all = append(all, <-took...)
		}
		if len(failed) > 0 {
			return <-failed
		}
		fmt.Fprintf(w, "%d callers at once, %s: ADD takes %s ms (median), the slowest %s ms, x%.1f\n",
			o.Crowd, p.name, ms(median(all)), ms(slices.Max(all)), ratio(slices.Max(all), median(all)))
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

// fileSystem names the file system that dir is on (statfs(2)).
func fileSystem(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return dir
	}
	switch uint32(fs.Type) { // the magic of btrfs is more than 31 bits
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	}
	return fmt.Sprintf("file system %#x", fs.Type)
}
