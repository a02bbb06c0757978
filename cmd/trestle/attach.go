package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/netns"
)

type attachOptions struct {
	*app
	netns   string
	pid     int
	name    string
	publish []string
	wish    attach.Wish
}

func newAttachCommand(a *app) *cobra.Command {
	o := attachOptions{app: a}
	command := &cobra.Command{
		Use:   "attach (CONTAINER | --netns PATH | --pid PID) NETWORK",
		Short: "Attach a container to a network",
		Long: `Attach a container to a network, as a runtime does. CONTAINER is a network namespace
of "ip netns"; any other is named by its path, or by a process in it. The result is
stored where runtimes that use libcni store theirs, so that detach needs only the
container.

If the host port is left out (-p 80), a free one is chosen and printed.`,
		Example: `  ip netns add web && trestle attach web lab -p 8080:80
  trestle attach --pid 4711 lab --ip 10.24.0.9 --ifname eth1
  trestle attach web lab -p 80 -p 127.0.0.1:5353:53/udp`,
		Args: func(_ *cobra.Command, args []string) error { return o.checkArgs(args) },
		ValidArgsFunction: func(command *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 && o.netns == "" && o.pid == 0 {
				return offer(netnsNames, 0, 0)(command, args, word)
			}
			return offer(a.networkNames, 0, 1)(command, args, word)
		},
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.netns, "netns", "", "path of the container's network namespace")
	flags.IntVar(&o.pid, "pid", 0, "a process of the container")
	flags.StringVar(&o.name, "name", "", "the container's name (default: the namespace's name, or pid-PID)")
	flags.StringVar(&o.wish.IfName, "ifname", "", "the interface's name in the container (default: the first free of eth0, eth1 …)")
	addConnectionFlags(flags, &o.wish, &o.publish)
	return command
}

// netnsNames lists the network namespaces of ip netns.
func netnsNames() []string {
	entries, err := os.ReadDir(netns.NamedDir)
	if err != nil {
		return nil // there are none
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// addConnectionFlags adds the flags that attach and run share.
func addConnectionFlags(flags *pflag.FlagSet, wish *attach.Wish, publish *[]string) {
	flags.StringSliceVar(&wish.IPs, "ip", nil, "address of the container, one for each subnet (default: the next free ones)")
	flags.StringVar(&wish.MAC, "mac", "", "MAC address (default: made from the IP address)")
	flags.StringSliceVarP(publish, "publish", "p", nil, "publish a port: [HOSTIP:][HOSTPORT[-LAST]:]PORT[-LAST][/udp]")
}

func (o *attachOptions) checkArgs(args []string) error {
	given := 0
	for _, is := range []bool{o.netns != "", o.pid != 0, len(args) > 1} {
		if is {
			given++
		}
	}
	switch {
	case len(args) == 0:
		return cni.ConfigErrorf("attach: no network is named; see trestle attach --help")
	case len(args) > 2:
		return cni.ConfigErrorf("attach: unexpected argument %q; name one container and one network", strings.Join(args[2:], " "))
	case given == 0:
		return cni.ConfigErrorf("attach: no container is named; give its name before the network's, or --netns or --pid")
	case given > 1:
		return cni.ConfigErrorf("attach: the container is named more than once; use one of its name, --netns and --pid")
	}
	return nil
}

func (o *attachOptions) run(ctx context.Context, p *ui.Printer, args []string) error {
	var err error
	o.wish.Container, o.wish.NetNS, err = o.container(args)
	if err != nil {
		return err
	}
	if o.wish.Publish, err = attach.ParsePublish(o.publish); err != nil {
		return err
	}
	o.tidy(ctx, p)
	unlock, err := attach.LockNetNS(o.wish.NetNS)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := o.runtime(p)
	if err != nil {
		return err
	}
	attached, err := r.Add(ctx, args[len(args)-1], o.wish)
	if err != nil {
		return err
	}
	if p.JSON {
		return p.Document(attached)
	}
	printAttached(p, attached)
	return nil
}

func printAttached(p *ui.Printer, a attach.Attached) {
	p.Printf("%s: %s on network %s: %s", a.Container, a.IfName, a.Network, strings.Join(texts(a.Addresses), ", "))
	if len(a.Ports) > 0 {
		p.Printf("; %s", strings.Join(texts(a.Ports), ", "))
	}
	p.Printf("\n")
}

// container finds the name and the network namespace of the container in the arguments.
func (o *attachOptions) container(args []string) (name, path string, err error) {
	switch {
	case o.netns != "":
		if path, err = filepath.Abs(o.netns); err != nil {
			return "", "", err
		}
		name = filepath.Base(path)
	case o.pid < 0:
		return "", "", cni.ConfigErrorf("--pid: %d is not a process id", o.pid)
	case o.pid > 0:
		name, path = fmt.Sprintf("pid-%d", o.pid), fmt.Sprintf("/proc/%d/ns/net", o.pid)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return "", "", cni.ConfigErrorf("--pid: there is no process %d", o.pid)
		} else if err != nil {
			return "", "", fmt.Errorf("--pid: look at the network namespace of process %d: %w", o.pid, err)
		}
	default:
		name, path = args[0], filepath.Join(netns.NamedDir, args[0])
		if err := attach.CheckContainer(name); err != nil {
			return "", "", err
		}
		if _, err := os.Stat(path); err != nil {
			return "", "", cni.ConfigErrorf("container: there is no network namespace %q; make it with ip netns add %s, or use --netns or --pid", name, name)
		}
	}
	if o.name != "" {
		name = o.name
	}
	return name, path, nil
}

// runtime is what attaches and detaches containers, with a new snapshot of the host.
func (a *app) runtime(p *ui.Printer) (attach.Runtime, error) {
	snapshot, err := a.take(p)
	if err != nil {
		return attach.Runtime{}, err
	}
	lists, err := network.Read(a.lists)
	_ = err // the snapshot's problems, which are printed, include it
	return attach.Runtime{Plugins: a.plugins, Lists: lists, Snapshot: snapshot}, nil
}
