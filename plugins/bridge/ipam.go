package bridge

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
)

// ipam is where addresses come from: host-local in this process, any other
// plugin in one of its own, or nowhere.
type ipam interface {
	Add(*cni.Request) (*cni.Result, error)
	Del(*cni.Request) error
	Check(*cni.Request) error
	GC(*cni.Request) error
	Status(*cni.Request) error
}

func findIPAM(r *cni.Request, name string) ipam {
	if name == "" {
		return noIPAM{}
	}
	if name == "host-local" && isThisExecutable(name, r.Path) {
		return inProcess{hostlocal.Plugin()}
	}
	return delegate{name}
}

// isThisExecutable says whether the plugin that the runtime's path leads to is
// the file that runs here, under another name.
func isThisExecutable(name string, dirs []string) bool {
	for _, dir := range dirs {
		found, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		self, selfErr := os.Stat("/proc/self/exe")
		return err == nil && selfErr == nil && os.SameFile(found, self)
	}
	return false
}

// noIPAM is a layer 2 network.
type noIPAM struct{}

func (noIPAM) Add(*cni.Request) (*cni.Result, error) { return &cni.Result{}, nil }
func (noIPAM) Del(*cni.Request) error                { return nil }
func (noIPAM) Check(*cni.Request) error              { return nil }
func (noIPAM) GC(*cni.Request) error                 { return nil }
func (noIPAM) Status(*cni.Request) error             { return nil }

// inProcess calls a plugin of this executable.
type inProcess struct{ plugin cni.Plugin }

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

// delegate executes a plugin as the spec says: the same environment and the
// whole configuration (CNI spec, section 4).
type delegate struct{ name string }

func (d delegate) Add(r *cni.Request) (*cni.Result, error) {
	result, err := invoke.DelegateAdd(context.Background(), d.name, r.Stdin, nil)
	if err != nil {
		// what a failed ADD may have taken, its DEL gives back (CNI spec, section 4)
		return nil, errors.Join(d.explain(r, err), d.Del(r))
	}
	newest, err := types100.GetResult(result)
	if err != nil {
		return nil, cni.DecodeErrorf("result of ipam plugin %s: %w", d.name, err)
	}
	return newest, nil
}

func (d delegate) Del(r *cni.Request) error {
	return d.explain(r, invoke.DelegateDel(context.Background(), d.name, r.Stdin, nil))
}

func (d delegate) Check(r *cni.Request) error {
	return d.explain(r, invoke.DelegateCheck(context.Background(), d.name, r.Stdin, nil))
}

func (d delegate) GC(r *cni.Request) error {
	return d.explain(r, invoke.DelegateGC(context.Background(), d.name, r.Stdin, nil))
}

func (d delegate) Status(r *cni.Request) error {
	return d.explain(r, invoke.DelegateStatus(context.Background(), d.name, r.Stdin, nil))
}

// explain passes a plugin's own error on with its code, and says what to do
// where there was no plugin.
func (d delegate) explain(r *cni.Request, err error) error {
	if err == nil {
		return nil
	}
	var theirs *types.Error
	if errors.As(err, &theirs) && theirs.Code != types.ErrInternal {
		return cni.DelegateError(cni.Code(theirs.Code), d.name, err)
	}
	if _, findErr := invoke.FindInPath(d.name, r.Path); findErr != nil {
		return cni.ConfigErrorf("ipam.type: no plugin %q in CNI_PATH (%s); install it there or name another", d.name, strings.Join(r.Path, ":"))
	}
	return cni.DelegateError(cni.CodeFailed, d.name, err)
}
