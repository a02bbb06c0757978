package doctor

import (
	"os"
	"syscall"
)

// owner is the user that owns a file.
func owner(info os.FileInfo) uint32 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return 0
}
