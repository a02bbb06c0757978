package bridge

import (
	"os"
	"path/filepath"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
	"github.com/trestle-cni/trestle/plugins/static"
)

// ipam is where addresses come from: a plugin of this executable in this process,
// any other in one of its own, or nowhere.
type ipam interface {
	// NeedsNoLink says that Add can come before the container's link.
	NeedsNoLink() bool
	// ReleasesByLink says that Del sends something by the container's link.
	ReleasesByLink() bool

	Add(*cni.Request) (*cni.Result, error)
	Del(*cni.Request) error
	Check(*cni.Request) error
	GC(*cni.Request) error
	Status(*cni.Request) error
}

func findIPAM(r *cni.Request, name string) ipam {
	if name == "" || filepath.Base(name) != name {
		return noIPAM{} // a path is refused by an ADD, and a DEL does not follow it either
	}
	ours := map[string]func() cni.Plugin{"host-local": hostlocal.Plugin, "static": static.Plugin}
	if plugin, ok := ours[name]; ok && isThisExecutable(name, r.Path) {
		return inProcess{plugin()}
	}
	return delegate{name}
}

// isThisExecutable says whether the plugin that the runtime's path leads to is
// the file that runs here, under another name.
func isThisExecutable(name string, dirs []string) bool {
	found, err := os.Stat(findPlugin(name, dirs))
	if err != nil {
		return false
	}
	self, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(found, self)
}

// findPlugin is the path of a plugin, "" where no directory has it.
func findPlugin(name string, dirs []string) string {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// noIPAM is a layer 2 network.
type noIPAM struct{}

func (noIPAM) NeedsNoLink() bool                     { return true }
func (noIPAM) ReleasesByLink() bool                  { return false }
func (noIPAM) Add(*cni.Request) (*cni.Result, error) { return &cni.Result{}, nil }
func (noIPAM) Del(*cni.Request) error                { return nil }
func (noIPAM) Check(*cni.Request) error              { return nil }
func (noIPAM) GC(*cni.Request) error                 { return nil }
func (noIPAM) Status(*cni.Request) error             { return nil }

// inProcess calls a plugin of this executable.
type inProcess struct{ plugin cni.Plugin }

func (inProcess) NeedsNoLink() bool    { return true }
func (inProcess) ReleasesByLink() bool { return false }

func (p inProcess) Add(r *cni.Request) (*cni.Result, error) {
	result, err := p.plugin.Add(r)
	if err != nil {
		return nil, err
	}
	return types100.GetResult(result)
}

func (p inProcess) Del(r *cni.Request) error    { return p.plugin.Del(r) }
func (p inProcess) Check(r *cni.Request) error  { return p.plugin.Check(r) }
func (p inProcess) GC(r *cni.Request) error     { return p.plugin.GC(r) }
func (p inProcess) Status(r *cni.Request) error { return p.plugin.Status(r) }
