package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// trustedPath is a file or directory that root trusts, with its mode and owner.
type trustedPath struct {
	Name string
	Mode os.FileMode
	UID  uint32
}

// changeMode returns a fix that sets the mode.
func changeMode(path string, mode os.FileMode) func(context.Context, Tools) error {
	return func(context.Context, Tools) error { return os.Chmod(path, mode) }
}

// permissions finds files that root runs or reads and other users can change.
func permissions(h *Host) []Finding {
	var all []Finding
	for _, p := range h.paths {
		if p.Mode.Perm()&0o022 != 0 && p.Mode&os.ModeSticky == 0 {
			mode := p.Mode.Perm() &^ 0o022
			all = append(all, Finding{
				Severity: Fault, Subject: p.Name,
				Text:    fmt.Sprintf("its mode is %04o: users other than root can change what root runs or trusts", p.Mode.Perm()),
				Command: fmt.Sprintf("chmod %04o %s", mode, p.Name), fix: changeMode(p.Name, mode),
			})
		}
		if p.UID != 0 {
			all = append(all, Finding{
				Severity: Fault,
				Subject:  p.Name,
				Text:     fmt.Sprintf("it belongs to user %d, who can change what root runs or trusts", p.UID),
				Command:  "chown root: " + p.Name,
			})
		}
	}
	return all
}

// readPaths reads the modes of the directories, and of the lists and plugins in them. Missing
// ones are left out.
func readPaths(s Sources) []trustedPath {
	var all []trustedPath
	add := func(path string) {
		if info, err := os.Stat(path); err == nil {
			all = append(all, trustedPath{Name: path, Mode: info.Mode(), UID: owner(info)})
		}
	}
	for _, dir := range []string{s.Records, s.Leases} {
		add(dir)
	}
	for _, dirs := range [][]string{s.Lists, s.Plugins} {
		for _, dir := range dirs {
			add(dir)
			entries, _ := os.ReadDir(dir) // a missing directory has no entries
			for _, entry := range entries {
				add(filepath.Join(dir, entry.Name()))
			}
		}
	}
	return all
}

func owner(info os.FileInfo) uint32 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return 0
}
