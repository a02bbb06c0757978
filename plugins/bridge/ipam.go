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

// ipam is the configuration's IPAM plugin. host-local and static run in this process if
// CNI_PATH leads to this executable. Any other plugin is executed. A layer 2 network has none.
type ipam interface {
	// needsNoLink says that Add can be called before the container's link is made.
	needsNoLink() bool
	// releasesByLink says that Del sends something over the container's link, so that it must
	// be called before the link is deleted.
	releasesByLink() bool

	// Add returns the lease, and pushes to undo a function that releases what this call has
	// leased.
	Add(r *cni.Request, undo *cni.Undo) (*cni.Result, error)
	Del(*cni.Request) error
	Check(*cni.Request) error
	GC(*cni.Request) error
	Status(*cni.Request) error
}

func findIPAM(r *cni.Request, name string) ipam {
	if name == "" || filepath.Base(name) != name {
		return noIPAM{} // ParseConfig refuses a path on ADD, and DEL must not execute it either
	}
	switch {
	case name == "host-local" && (r.Combined || isThisExecutable(name, r.Path)):
		return inProcess{plugin: hostlocal.Plugin()}
	case name == "static" && (r.Combined || isThisExecutable(name, r.Path)):
		return staticAddresses{plugin: static.Plugin()}
	}
	return delegate{name}
}

// isThisExecutable says whether the plugin in CNI_PATH is the file of this process, under
// another name, or a copy of it: installing file by file makes copies of the hard links.
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

// sameBuild says whether two executables have the same first page. The linker puts the build
// ID there, a hash of the whole content; without a build ID (-buildid=) it is false.
func sameBuild(path, other string) bool {
	page := firstPage(path)
	return bytes.Contains(page, goNote) && bytes.Equal(page, firstPage(other))
}

// goNote is the name of the ELF note with the build ID (cmd/internal/buildid).
var goNote = []byte("Go\x00\x00")

func firstPage(path string) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }() // opened for reading only
	page := make([]byte, 4096)
	n, err := io.ReadFull(file, page)
	if err != nil {
		return nil
	}
	return page[:n]
}

// findPlugin is the path of a plugin and its file; found is nil if no directory has it.
func findPlugin(name string, dirs []string) (path string, found os.FileInfo) {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, info
		}
	}
	return "", nil
}

// noIPAM is the IPAM of a layer 2 network: none.
type noIPAM struct{}

func (noIPAM) needsNoLink() bool    { return true }
func (noIPAM) releasesByLink() bool { return false }

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

// Add also removes the port mappings of attachments that are proved dead, if it reuses their
// leases: the mappings would lead to the new container.
func (inProcess) Add(r *cni.Request, undo *cni.Undo) (*cni.Result, error) {
	return hostlocal.Lease(r, func() error { return translator.NAT(nil).GC(r, cni.Valid{}) }, undo)
}

func (p inProcess) Del(r *cni.Request) error    { return p.plugin.Del(r) }
func (p inProcess) Check(r *cni.Request) error  { return p.plugin.Check(r) }
func (p inProcess) GC(r *cni.Request) error     { return p.plugin.GC(r) }
func (p inProcess) Status(r *cni.Request) error { return p.plugin.Status(r) }

// staticAddresses is static in this process. It stores nothing, so there is nothing to
// release.
type staticAddresses struct {
	noIPAM
	plugin cni.Plugin
}

func (g staticAddresses) Add(r *cni.Request, _ *cni.Undo) (*cni.Result, error) {
	result, err := g.plugin.Add(r)
	if err != nil {
		return nil, err
	}
	return types100.GetResult(result)
}

func (g staticAddresses) Check(r *cni.Request) error  { return g.plugin.Check(r) }
func (g staticAddresses) Status(r *cni.Request) error { return g.plugin.Status(r) }
