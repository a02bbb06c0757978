package iptables

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChange: a change that fails is tried again, since another program may have changed the
// table meanwhile, but not if the lock of iptables was not free within ten seconds.
func TestChange(t *testing.T) {
	one, two := "-A OURS -j ONE\n", "-A OURS -j TWO\n"
	for _, test := range []struct {
		name   string
		tables []string // what iptables-save prints, call by call
		fails  int      // how many changes fail
		status int      // the exit status of these
		locked bool     // whether they wait for the lock first, as long as they are told to
		want   string
		ok     bool
	}{
		{"at once", []string{one}, 0, 0, false, "-D OURS -j ONE\n", true},
		{"changed meanwhile", []string{one, two}, 1, 1, false, "-D OURS -j ONE\n-D OURS -j TWO\n", true},
		{"gone meanwhile", []string{one, ""}, 1, 1, false, "-D OURS -j ONE\n", true},
		{"changed all the time", []string{one, two, one, two}, 9, 1, false, "-D OURS -j ONE\n-D OURS -j TWO\n-D OURS -j ONE\n", false},
		{"flushed while it was at work", []string{one, ""}, 1, 4, false, "-D OURS -j ONE\n", true},
		{"locked by another", []string{one, one, one}, 9, 4, true, "-D OURS -j ONE\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			write := func(name, text string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			count := "#!/bin/sh\ncd " + dir + "\nn=$(cat $0.times 2>&- || echo 0)\necho $((n + 1)) >$0.times\n"
			write("fake-save", count+"cat table$n\n")
			wait := ""
			if test.locked {
				wait = "sleep ${1#--wait=}\n"
			}
			write("fake-restore", count+"grep '^-D' >>changes\n"+wait+fmt.Sprintf("test $n -ge %d || exit %d\n", test.fails, test.status))
			write("changes", "")
			for i, table := range test.tables {
				write(fmt.Sprint("table", i), table)
			}
			err := Change("fake", "filter", func(have Table) (lines []string, err error) {
				for _, rule := range have.Rules {
					lines = append(lines, "-D"+strings.TrimPrefix(rule, "-A"))
				}
				return lines, nil
			})
			got, readErr := os.ReadFile(filepath.Join(dir, "changes"))
			if string(got) != test.want || (err == nil) != test.ok || readErr != nil {
				t.Errorf("got changes\n%s%v, %v, want\n%sand success %v", got, err, readErr, test.want, test.ok)
			}
		})
	}
}
