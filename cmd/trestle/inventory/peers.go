package inventory

import (
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// namespaceDirs hold named namespaces: those of ip-netns(8), which runtimes use as well,
// and Docker's.
func namespaceDirs() []string { return []string{netns.NamedDir, "/run/docker/netns"} }

// peers sets the names of the namespaces of veth peers that are not an attachment's. The kernel
// reports ids; the id of each named namespace must be asked for.
func (t *taking) peers() {
	taken := map[string]bool{}
	for _, a := range t.order {
		if a.Evidence.Link {
			taken[a.HostLink] = true
		}
	}
	var names map[int]string
	for i := range t.snapshot.Links {
		l := &t.snapshot.Links[i]
		if l.Kind != "veth" || l.PeerNetNS < 0 || taken[l.Name] {
			continue
		}
		if names == nil {
			names = namespaces(namespaceDirs())
		}
		l.PeerNetNSName = names[l.PeerNetNS]
	}
}

// namespaces maps the ids that namespaces have here to their names.
func namespaces(dirs []string) map[int]string {
	names := map[int]string{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // there is none
		}
		for _, entry := range entries {
			f, err := os.OpenFile(filepath.Join(dir, entry.Name()), os.O_RDONLY|unix.O_NONBLOCK, 0) // nonblocking, since it may be a FIFO
			if err != nil {
				continue // gone meanwhile
			}
			number, err := netlink.GetNetNsIdByFd(int(f.Fd()))
			_ = f.Close() // nothing was written
			if err == nil && number >= 0 && names[number] == "" {
				names[number] = entry.Name()
			}
		}
	}
	return names
}
