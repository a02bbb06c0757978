package bridge

import (
	"bytes"
	"io"
	"os"
	"path/filepath"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
	"github.com/trestle-cni/trestle/plugins/static"
	"github.com/trestle-cni/trestle/plugins/translator"
)

// ipam is the configuration's IPAM plugin. host-local and static run in this process where
// CNI_PATH leads to this executable; any other is executed; a layer 2 network has none.
type ipam interface {
	// NeedsNoLink says that Add can come before the container's link.
	NeedsNoLink() bool
	// ReleasesByLink says that Del sends something by the container's link.
	ReleasesByLink() bool

	// Add gives the lease, and pushes to undo what releases what this call took.
	Add(r *cni.Request, undo *cni.Undo) (*cni.Result, error)
	Del(*cni.Request) error
	Check(*cni.Request) error
	GC(*cni.Request) error
	Status(*cni.Request) error
}

func findIPAM(r *cni.Request, name string) ipam {
	if name == "" || filepath.Base(name) != name {
		return noIPAM{} // a path is refused by an ADD, and a DEL does not follow it either
	}
	switch {
	case name == "host-local" && (r.Combined || isThisExecutable(name, r.Path)):
		return inProcess{plugin: hostlocal.Plugin()}
	case name == "static" && (r.Combined || isThisExecutable(name, r.Path)):
		return givenAddresses{plugin: static.Plugin()}
	}
	return delegate{name}
}

// isThisExecutable says whether the plugin that the runtime's path leads to is
// the file that runs here, under another name, or a copy of it: an installation that
// copies file by file makes copies of the hard links.
func isThisExecutable(name string, dirs []string) bool {
	const self = "/proc/self/exe"
	path, found := findPlugin(name, dirs)
	if found == nil {
		return false
	}
	own, err := os.Stat(self)
	if err != nil {
		return false
	}
	return os.SameFile(found, own) || found.Size() == own.Size() && sameBuild(path, self)
}

// sameBuild compares two executables by their first page. The linker puts the build
// id there, which is a hash of all that is in the file; a build without one (-buildid=)
// is never the same.
func sameBuild(path, other string) bool {
	page := firstPage(path)
	return bytes.Contains(page, goNote) && bytes.Equal(page, firstPage(other))
}

// goNote is the name of the note that holds the build id (cmd/internal/buildid).
var goNote = []byte("Go\x00\x00")

func firstPage(path string) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }() // only read
	page := make([]byte, 4096)
	n, err := io.ReadFull(file, page)
	if err != nil {
		return nil
	}
	return page[:n]
}

// findPlugin is the path of a plugin and its file, nil where no directory has it.
func findPlugin(name string, dirs []string) (path string, found os.FileInfo) {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, info
		}
	}
	return "", nil
}

// noIPAM is a layer 2 network.
type noIPAM struct{}

func (noIPAM) NeedsNoLink() bool    { return true }
func (noIPAM) ReleasesByLink() bool { return false }

func (noIPAM) Add(*cni.Request, *cni.Undo) (*cni.Result, error) { return &cni.Result{}, nil }

func (noIPAM) Del(r *cni.Request) error  { return hostlocal.ReleaseFormer(r) } // the network may have had one
func (noIPAM) Check(*cni.Request) error  { return nil }
func (noIPAM) GC(r *cni.Request) error   { return hostlocal.ReclaimFormer(r) }
func (noIPAM) Status(*cni.Request) error { return nil }

// inProcess is host-local in this process.
type inProcess struct {
	noIPAM
	plugin cni.Plugin
}

// Add gives the dead's host ports back with their leases: nobody else's container shall be
// reached by them.
func (inProcess) Add(r *cni.Request, undo *cni.Undo) (*cni.Result, error) {
	return hostlocal.Lease(r, func() error { return translator.NAT(nil).GC(r, cni.Valid{}) }, undo)
}

func (p inProcess) Del(r *cni.Request) error    { return p.plugin.Del(r) }
func (p inProcess) Check(r *cni.Request) error  { return p.plugin.Check(r) }
func (p inProcess) GC(r *cni.Request) error     { return p.plugin.GC(r) }
func (p inProcess) Status(r *cni.Request) error { return p.plugin.Status(r) }

// givenAddresses is static in this process, which keeps nothing of an ADD.
type givenAddresses struct {
	noIPAM
	plugin cni.Plugin
}

func (g givenAddresses) Add(r *cni.Request, _ *cni.Undo) (*cni.Result, error) {
	result, err := g.plugin.Add(r)
	if err != nil {
		return nil, err
	}
	return types100.GetResult(result)
}

func (g givenAddresses) Check(r *cni.Request) error  { return g.plugin.Check(r) }
func (g givenAddresses) Status(r *cni.Request) error { return g.plugin.Status(r) }
