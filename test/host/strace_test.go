package host

import (
	"maps"
	"testing"
)

// TestParseTrace: what was interrupted, and made again, is counted once, and what the Go
// runtime tells its own threads not at all.
func TestParseTrace(t *testing.T) {
	const text = `7 execve("/x/bridge", ["bridge"], 0x7ffe /* 9 vars */) = 0
7 openat(AT_FDCWD, "/a", O_RDONLY) = -1 EINTR (Interrupted system call)
7 openat(AT_FDCWD, "/a", O_RDONLY) = 3
7 flock(3, LOCK_EX <unfinished ...>
8 write(5, "\1\0\0\0\0\0\0\0", 8) = 8
9 read(5,  <unfinished ...>
7 <... flock resumed>) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
7 --- SIGURG {si_signo=SIGURG, si_code=SI_TKILL, si_pid=7, si_uid=0} ---
9 <... read resumed>"\1\0\0\0\0\0\0\0", 8) = 8
7 flock(3, LOCK_EX <unfinished ...>
8 write(1, "{}", 2 <unfinished ...>
8 <... write resumed>) = 2
7 <... flock resumed>) = 0
7 recvfrom(4, 0xc000, 32768, 0, NULL, NULL) = -1 EINTR (Interrupted system call) (INJECTED)
`
	trace := parseTrace(text)
	if want := map[string]int{"execve": 1, "openat": 1, "flock": 1, "write": 1, "recvfrom": 1}; !maps.Equal(trace.Calls, want) {
		t.Errorf("got %v, want %v", trace.Calls, want)
	}
	if len(trace.Execs) != 1 || trace.Injected != 1 {
		t.Errorf("got programs %q, %d injected, want one each", trace.Execs, trace.Injected)
	}
}
