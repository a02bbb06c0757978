package host

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Network is a network list in the hands of a runtime: libcni, the library that
// runtimes have, runs its chain of plugins on the host and keeps its cache there,
// in /var/lib/cni.
type Network struct {
	List *libcni.NetworkConfigList
	// Path is where its plugins are looked for: Trestle's at first.
	Path []string
	// Exec runs the plugins where it is set; libcni's own way does else.
	Exec invoke.Exec

	host *Host
}

// Network reads a network list, as in a .conflist file.
func (h *Host) Network(conflist string) *Network {
	h.t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conflist))
	if err != nil {
		h.t.Fatalf("network list: %v", err)
	}
	return &Network{List: list, Path: []string{h.dirs.Trestle}, host: h}
}

// Attachment is what a runtime says of the container's eth0. The caller may
// change it: IfName, Args, CapabilityArgs ("portMappings", "mac" …).
func (c *Container) Attachment() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: c.ID, NetNS: c.NetNS, IfName: "eth0", CapabilityArgs: map[string]any{}}
}

// Add runs the chain and returns its result in the newest version.
func (n *Network) Add(a *libcni.RuntimeConf) (result *types100.Result, err error) {
	err = n.do(func(ctx context.Context, cni *libcni.CNIConfig) error {
		versioned, err := cni.AddNetworkList(ctx, n.List, a)
		if err != nil {
			return err
		}
		result, err = types100.NewResultFromResult(versioned)
		return err
	})
	return result, err
}

// Del runs the chain backwards.
func (n *Network) Del(a *libcni.RuntimeConf) error {
	return n.do(func(ctx context.Context, cni *libcni.CNIConfig) error {
		return cni.DelNetworkList(ctx, n.List, a)
	})
}

// Check has each plugin compare the cached result with the kernel.
func (n *Network) Check(a *libcni.RuntimeConf) error {
	return n.do(func(ctx context.Context, cni *libcni.CNIConfig) error {
		return cni.CheckNetworkList(ctx, n.List, a)
	})
}

// GC names the attachments that are in use; all others of the network go.
func (n *Network) GC(args *libcni.GCArgs) error {
	return n.do(func(ctx context.Context, cni *libcni.CNIConfig) error {
		return cni.GCNetworkList(ctx, n.List, args)
	})
}

// Status asks whether an Add could succeed.
func (n *Network) Status() error {
	return n.do(func(ctx context.Context, cni *libcni.CNIConfig) error {
		return cni.GetStatusNetworkList(ctx, n.List)
	})
}

// do calls libcni on the host: it runs plugins and touches files on the
// goroutine that calls it.
func (n *Network) do(fn func(context.Context, *libcni.CNIConfig) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.host.Do(func() error { return fn(ctx, libcni.NewCNIConfig(n.Path, n.Exec)) })
}

// confDir is where Cnitool's networks are, on the Host.
const confDir = "/etc/cni/net.d"

// InstallNetwork puts a network list where runtimes look for it.
func (h *Host) InstallNetwork(file, conflist string) {
	h.t.Helper()
	err := h.Do(func() error {
		if err := os.MkdirAll(confDir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(confDir, file), []byte(conflist), 0o644)
	})
	if err != nil {
		h.t.Fatalf("install network %s: %v", file, err)
	}
}

// Cnitool runs `cnitool command network netns`, with the given environment
// besides NETCONFPATH and CNI_PATH (that of Trestle's plugins; env may overrule).
func (h *Host) Cnitool(command, network, netns string, env ...string) Output {
	h.t.Helper()
	output, err := h.Run(Command{
		Args: []string{h.dirs.Cnitool, command, network, netns},
		Env:  append([]string{"NETCONFPATH=" + confDir, "CNI_PATH=" + h.dirs.Trestle}, env...),
	})
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	return output
}
