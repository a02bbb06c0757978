package host

import (
	"os"
	"path/filepath"
	"strings"
)

// ForgetDataDir removes the notes that leases are in that directory, or below it, which host-local
// leaves on the machine itself where a test executes it on no Host; they harm nobody where that
// fails.
func ForgetDataDir(dir string) {
	const notes = "/var/lib/cni/networks/.trestle"
	links, err := filepath.Glob(notes + "/*/*")
	if err != nil {
		return
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && (to == dir || strings.HasPrefix(to, dir+"/")) {
			_ = os.Remove(link)               // a DEL may have come first
			_ = os.Remove(filepath.Dir(link)) // unless somebody has something there
		}
	}
	for d := notes; d != "/var/lib"; d = filepath.Dir(d) {
		_ = os.Remove(d) // likewise
	}
}
