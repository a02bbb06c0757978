package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/container"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/netns"
)

type runOptions struct {
	*app
	nets    []string
	publish []string
	dns     []string
	quiet   bool
	detach  bool
	log     string
	wish    attach.Wish
}

func newRunCommand(a *app) *cobra.Command {
	o := runOptions{app: a}
	command := &cobra.Command{
		Use:   "run [--net MODE]… [-p PORT]… -- COMMAND [ARG…]",
		Short: "Run a command in a network namespace of its own",
		Long: `Run a command in a new network namespace, on one network or on several. The files are
the host's; only /etc/resolv.conf is the network's, where it has DNS, and /sys shows
the new namespace. When the command ends, the namespace and all that it had on networks
are removed; if trestle is killed, by the next trestle command that changes anything.

--net is one of

    bridge          the network that runtimes use: the first list (default)
    NETWORK         that network; for several give several --net
    host            the host's own namespace
    none            no network but lo
    container:NAME  the namespace of another container

With --detach the command runs in the background, without input, until it ends or
"trestle stop" ends it. What it writes, and any message of trestle's, is appended to the
file of --log; without --log it is lost.

The container's addresses and ports are printed on standard error, with --json in JSON;
with --detach and --json on standard output, which is otherwise the command's.

Signals that trestle gets are passed on to the command, and trestle ends with its exit
status: 127 if there is no such command, 126 if it cannot be executed, 128 plus the
signal's number if one ended it.`,
		Example: `  trestle run --net web -p 8080:80 -- busybox httpd -f -h /srv
  trestle run --net web --net db --name app -- ./app
  trestle run --net container:app -- ss -ltn
  trestle run --detach --log /var/log/site.log --net web -p 80 -- busybox httpd -f`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cni.ConfigErrorf("command: missing; give it behind --, as in trestle run -- ip address")
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	flags := command.Flags()
	flags.SetInterspersed(false)
	flags.StringArrayVar(&o.nets, "net", nil, "bridge, host, none, container:NAME, or a network; for several networks, repeat --net")
	flags.StringArrayVar(&o.nets, "network", nil, "the same as --net")
	flags.StringVar(&o.wish.Container, "name", "", "what to call the container (default: run- and a random number)")
	flags.StringSliceVar(&o.dns, "dns", nil, "name server, instead of the network's or the host's")
	flags.BoolVarP(&o.detach, "detach", "d", false, "return when the command has started, and leave it in the background; see stop")
	flags.StringVar(&o.log, "log", "", "with --detach, append the command's output to this `FILE`, which trestle ls shows; a FIFO must have a reader already")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "do not print addresses and ports")
	addConnectionFlags(flags, &o.wish, &o.publish)
	completeFlag(command, "net", a.netModes)
	completeFlag(command, "network", a.netModes)
	return command
}

// program is the path of the command.
func (o *runOptions) program(p *ui.Printer, name string) (string, error) {
	program, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(program)
	}
	hint := ""
	if lists, _ := network.Read(o.lists); slices.ContainsFunc(lists, func(l network.List) bool { return l.Name == name }) {
		hint = "; a network has that name: --net " + name
	}
	p.Notef("trestle: command: %v%s", err, hint)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return "", exitStatus(notFound)
	}
	return "", exitStatus(notExecutable)
}

// The exit statuses of a command that has not run, as in shells.
const (
	notExecutable = 126
	notFound      = 127
)

// placement is where the command runs.
type placement struct {
	networks []string // to attach a new namespace to
	own      bool     // in a new namespace
	netns    string   // another container's namespace; "" is the host's
}

func (o *runOptions) run(ctx context.Context, p *ui.Printer, args []string) error {
	if err := o.check(); err != nil {
		return err
	}
	program, err := o.program(p, args[0])
	if err != nil {
		return err
	}
	o.tidy(ctx, p)
	r, err := o.runtime(p)
	if err != nil {
		return err
	}
	at, err := o.place(r)
	if err != nil {
		return err
	}
	child := process{netns: at.netns, program: program, args: args}
	switch {
	case !at.own:
		signals, err := listen(ctx, args[0])
		if err != nil {
			return err
		}
		return child.run(signals)
	case o.detach && !isBackground():
		return runInBackground(p)
	}
	child.networks = at.networks
	return o.runInContainer(ctx, p, r, child)
}

// runInContainer runs the command in a namespace of its own.
func (o *runOptions) runInContainer(ctx context.Context, p *ui.Printer, r attach.Runtime, child process) error {
	output, err := openLog(o.log, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a missing file is created later, when nothing else can fail
		return err
	}
	c, err := container.New(o.wish.Container, o.log)
	if err != nil {
		return err
	}
	defer func() {
		if _, failed := o.close(context.WithoutCancel(ctx), p, c); failed != nil {
			p.Notef("trestle: clean up after %s: %v", c.Name, failed) // the exit status is the command's
		}
	}()
	child.netns = c.NetNS
	attached, dns, err := o.attachAll(ctx, r, child.networks)
	if err != nil {
		return err
	}
	if err := o.tell(p, c, attached); err != nil {
		return err
	}
	if child.resolvConf, err = c.ResolvConf(dns); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	signals, err := listen(ctx, c.Name) // before a caller is told that the command can be stopped
	if err != nil {
		return err
	}
	if o.detach {
		if err := enterBackground(o.log, output); err != nil {
			return err
		}
	}
	return child.run(signals)
}

// check refuses flags that are wrong on any host, and fills in defaults.
func (o *runOptions) check() (err error) {
	if o.wish.Publish, err = attach.ParsePublish(o.publish); err != nil {
		return err
	}
	for _, server := range o.dns {
		if _, err := netip.ParseAddr(server); err != nil {
			return cni.ConfigErrorf("--dns: %q is not an address", server)
		}
	}
	if err := o.checkLog(); err != nil {
		return err
	}
	if len(o.nets) == 0 {
		o.nets = []string{"bridge"}
	}
	for i := range o.nets {
		if err := o.checkMode(i); err != nil {
			return err
		}
	}
	if len(o.nets) > 1 && (len(o.wish.IPs) > 0 || o.wish.MAC != "") {
		return cni.ConfigErrorf("--ip, --mac: it is not clear which of the networks they are for; use trestle attach for these")
	}
	if o.wish.Container == "" {
		var random [4]byte
		_, _ = rand.Read(random[:]) // never fails (crypto/rand)
		o.wish.Container = "run-" + hex.EncodeToString(random[:])
	}
	return attach.CheckContainer(o.wish.Container)
}

func (o *runOptions) checkLog() error {
	switch {
	case o.log == "":
		return nil
	case !o.detach:
		return cni.ConfigErrorf("--log: it goes with --detach; without that, what the command writes is on standard output and standard error")
	}
	var err error
	if o.log, err = filepath.Abs(o.log); err != nil {
		return err
	}
	return (drawing{"--log", o.log}).check()
}

// ran is the answer of run: the container and its attachments.
type ran struct {
	Container   string            `json:"container"`
	NetNS       string            `json:"netns"`
	PID         int               `json:"pid"` // of the trestle that waits for the command
	Log         string            `json:"log,omitempty"`
	Attachments []attach.Attached `json:"attachments"`
}

// tell prints which addresses and ports the container has. Standard output is the command's,
// unless that runs in the background.
func (o *runOptions) tell(p *ui.Printer, c *container.Container, attached []attach.Attached) error {
	out := &ui.Printer{Out: p.Err}
	switch {
	case o.json:
		if o.detach {
			out.Out = p.Out
		}
		return out.Document(ran{c.Name, c.NetNS, c.PID, o.log, attached})
	case o.quiet:
		return nil
	}
	for _, a := range attached {
		printAttached(out, a)
	}
	if o.log != "" {
		out.Printf("%s: what it writes is in %s\n", c.Name, o.log)
	}
	return nil
}

// checkMode checks one --net against the other flags.
func (o *runOptions) checkMode(i int) error {
	mode := o.nets[i]
	_, joins := strings.CutPrefix(mode, "container:")
	alone := mode == "host" || mode == "none" || joins
	switch {
	case alone && len(o.nets) > 1:
		return cni.ConfigErrorf("--net: %s does not go with others; give it alone, or networks alone", mode)
	case alone && len(o.publish)+len(o.wish.IPs) > 0 || alone && o.wish.MAC != "":
		return cni.ConfigErrorf("--net: with %s there is no network to give ports and addresses; leave -p, --ip and --mac out", mode)
	case (mode == "host" || joins) && o.detach:
		return cni.ConfigErrorf("--detach: with --net %s there is no namespace to stop it by; leave one of them out", mode)
	case (mode == "host" || joins) && len(o.dns) > 0:
		return cni.ConfigErrorf("--dns: with --net %s the command has the DNS of that namespace; leave it out", mode)
	case slices.Contains(o.nets[:i], mode):
		return cni.ConfigErrorf("--net: %s is given twice; give it once", mode)
	}
	return nil
}

// place resolves the modes of --net on this host.
func (o *runOptions) place(r attach.Runtime) (placement, error) {
	other, joins := strings.CutPrefix(o.nets[0], "container:")
	switch {
	case o.nets[0] == "host":
		return placement{}, nil
	case o.nets[0] == "none":
		return placement{own: true}, nil
	case joins:
		path, err := netnsOf(r, other)
		return placement{netns: path}, err
	}
	at := placement{own: true}
	for _, mode := range o.nets {
		if mode == "bridge" {
			if len(r.Lists) == 0 {
				return at, cni.ConfigErrorf("--net: there is no network; make one with trestle network create NAME, or use none or host")
			}
			if mode = r.Lists[0].Name; r.Knows("bridge") == nil {
				mode = "bridge" // a network with that name, like nerdctl's
			}
		}
		if err := r.Knows(mode); err != nil {
			return at, err
		}
		at.networks = append(at.networks, mode)
	}
	if len(o.wish.Publish) > 0 && !slices.ContainsFunc(at.networks, r.Publishes) {
		return at, cni.ConfigErrorf("--publish: network %s publishes no ports, since none of its plugins does; leave it out, or take another network", strings.Join(at.networks, ", "))
	}
	if on := r.Snapshot.Of(o.wish.Container); slices.ContainsFunc(on, func(a inventory.Attachment) bool { return a.Container == o.wish.Container }) {
		return at, cni.ConfigErrorf("--name: there is a container %q already, on %s; choose another name", o.wish.Container, sentence(networksOf(on)))
	}
	return at, nil
}

// netnsOf is the network namespace of a container, attached or not.
func netnsOf(r attach.Runtime, container string) (string, error) {
	var paths []string
	if container != "" && filepath.Base(container) == container {
		paths = append(paths, filepath.Join(netns.NamedDir, container))
	}
	for _, a := range r.Snapshot.Of(container) {
		paths = append(paths, a.NetNS)
	}
	if i := slices.IndexFunc(paths, cni.IsNetNSAt); i >= 0 {
		return paths[i], nil
	}
	return "", cni.ConfigErrorf("--net: container:%s: there is no container with that name and a network namespace; see trestle ls and ip netns", container)
}

// attachAll attaches the container to one network after the other. Ports are published on
// the first network that can; dns is the networks', with the servers of --dns instead of theirs
// if that is given.
func (o *runOptions) attachAll(ctx context.Context, r attach.Runtime, networks []string) (all []attach.Attached, dns types.DNS, err error) {
	all = []attach.Attached{} // never nil, so that JSON has an empty list
	wish := o.wish
	wish.NetNS = filepath.Join(netns.NamedDir, wish.Container)
	unlock, err := attach.LockNetNS(wish.NetNS)
	if err != nil {
		return nil, dns, err
	}
	defer unlock()
	for _, name := range networks {
		one := wish
		one.Publish = nil
		if len(wish.Publish) > 0 && r.Publishes(name) {
			one.Publish, wish.Publish = wish.Publish, nil
		}
		attached, err := r.Add(ctx, name, one)
		if err != nil {
			return nil, dns, err
		}
		all = append(all, attached)
		dns.Nameservers = append(dns.Nameservers, attached.DNS.Nameservers...)
		dns.Search = append(dns.Search, attached.DNS.Search...)
		dns.Options = append(dns.Options, attached.DNS.Options...)
	}
	if len(o.dns) > 0 {
		dns.Nameservers = o.dns
	}
	return all, dns, nil
}

// close detaches the container from all networks, and removes its namespace. It returns what the
// container is detached from.
func (a *app) close(ctx context.Context, p *ui.Printer, c *container.Container) ([]inventory.Attachment, error) {
	r, err := a.runtime(&ui.Printer{Out: p.Out, Err: io.Discard}) // what cannot be read was printed before
	if err != nil {
		return nil, err
	}
	var detached []inventory.Attachment
	var failed []error
	for _, on := range ranOn(r.Snapshot, *c) {
		err := r.Del(ctx, on)
		if err == nil {
			detached = append(detached, on)
		}
		failed = append(failed, err)
	}
	return detached, errors.Join(append(failed, c.Close())...)
}

// ranOn are the attachments of a container of trestle run, and not those of another one
// that has its name.
func ranOn(snapshot *inventory.Snapshot, c container.Container) []inventory.Attachment {
	return slices.DeleteFunc(slices.Clone(snapshot.Attachments), func(on inventory.Attachment) bool {
		return on.Container != c.Name || on.NetNS != c.NetNS && on.NetNS != ""
	})
}

// sweep removes what killed "trestle run" commands have left, and returns what their containers
// were attached to.
func (a *app) sweep(ctx context.Context, p *ui.Printer) ([]inventory.Attachment, error) {
	abandoned, err := container.Abandoned()
	failed := []error{err}
	var swept []inventory.Attachment
	for _, c := range abandoned {
		detached, err := a.close(ctx, p, c)
		swept, failed = append(swept, detached...), append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		return swept, fmt.Errorf("clean up after a trestle run that was killed: %w", err)
	}
	return swept, nil
}

// tidy is sweep for commands that are about other containers: a failure is only printed.
func (a *app) tidy(ctx context.Context, p *ui.Printer) {
	_, err := a.sweep(ctx, p)
	note(p, err)
}
