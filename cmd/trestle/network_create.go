package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type networkCreateOptions struct {
	*app
	network.Wish
}

// dockerConfig is where Docker's pools may be set.
const dockerConfig = "/etc/docker/daemon.json"

func newNetworkCreateCommand(a *app) *cobra.Command {
	o := networkCreateOptions{app: a}
	command := &cobra.Command{
		Use:   "create NETWORK",
		Short: "Make a network",
		Long: `Make a network: a bridge of its own, masqueraded behind the host's addresses, with a
free subnet unless you name one. It is written as a network list that any CNI runtime
can read; no runtime needs a restart. The file is named 90-NETWORK.conflist, so that
another one, if there is any, stays the first in the directory: Kubernetes' runtimes use
that.

--ingress says who reaches a container from outside its bridge:

    published    everybody, by published ports only (default)
    same-bridge  other hosts that have a route, and networks without a policy
    isolated     the same, but not even its neighbours on the bridge
    open         everybody

--internal cuts the way out as well: no default route, no masquerade, nothing forwarded.`,
		Example: `  trestle network create web
  trestle network create db --internal --subnet 10.30.0.0/24 --exclude 10.30.0.0/28
  trestle network create lab --ipv6 --mtu 1400 --label owner=me`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			o.Name = args[0]
			return o.run(command.Context(), a.printer(command))
		},
	}
	flags := command.Flags()
	flags.StringVarP(&o.Driver, "driver", "d", "bridge", "what makes the network; only bridge")
	flags.StringSliceVar(&o.Subnets, "subnet", nil, "subnet, one or several; each container gets an address of each (default: a free one)")
	flags.StringSliceVar(&o.Gateways, "gateway", nil, "address of the host in a subnet (default: its first)")
	flags.StringSliceVar(&o.IPRanges, "ip-range", nil, "part of a subnet from which containers get addresses (default: all)")
	flags.StringSliceVar(&o.Exclude, "exclude", nil, "addresses or prefixes that no container gets")
	flags.BoolVar(&o.IPv6, "ipv6", false, "give the network an IPv6 subnet as well, if none is named")
	flags.StringVar(&o.Bridge, "bridge", "", "name of the bridge (default: br-NETWORK)")
	flags.IntVar(&o.MTU, "mtu", 0, "MTU of the bridge and its containers (default: that of the default route)")
	flags.BoolVar(&o.Internal, "internal", false, "cut the network off from all other hosts and networks, in both directions")
	flags.BoolVar(&o.Isolate, "isolate", false, "keep containers of the network from one another")
	flags.StringVar(&o.Ingress, "ingress", network.Published, "what gets in from outside the bridge: "+strings.Join(network.Policies(), ", "))
	flags.BoolVar(&o.NoMasquerade, "no-masquerade", false, "containers keep their own addresses towards other hosts")
	flags.StringSliceVar(&o.Labels, "label", nil, "key=value, for your own use")
	completeFlag(command, "ingress", words(network.Policies()...))
	completeFlag(command, "driver", words("bridge"))
	return command
}

// created is the answer.
type created struct {
	Name   string   `json:"name"`
	File   string   `json:"file"`
	Bridge string   `json:"bridge"`
	Subnet []string `json:"subnets"`
}

func (o networkCreateOptions) run(ctx context.Context, p *ui.Printer) error {
	plan, err := o.Plan()
	if err != nil {
		return err
	}
	answer, err := o.place(&plan)
	if err != nil {
		return err
	}
	o.tidy(ctx, p)
	if p.JSON {
		return p.Document(answer)
	}
	p.Printf("%s: bridge %s, %s; %s\n", answer.Name, answer.Bridge, strings.Join(answer.Subnet, ", "), answer.File)
	return nil
}

// place looks for room and takes it, as the only one.
func (o networkCreateOptions) place(plan *network.Plan) (answer created, err error) {
	release, err := locked(network.Lock)
	if err != nil {
		return answer, err
	}
	defer release(&err)
	source := inventory.DefaultSource()
	source.Lists = o.lists
	snapshot, err := source.Take()
	if err != nil {
		return answer, err
	}
	if err := free(snapshot, plan); err != nil {
		return answer, err
	}
	taken, err := takenSubnets(snapshot)
	if err != nil {
		return answer, err
	}
	if err := plan.Place(taken); err != nil {
		return answer, err
	}
	config, err := plan.Config(time.Now())
	if err != nil {
		return answer, err
	}
	if err := network.Check(config); err != nil {
		return answer, err
	}
	answer = created{plan.Name, network.File(o.lists[0], plan.Name), plan.Bridge, texts(plan.Pools)}
	return answer, network.Write(answer.File, config)
}

// free says who has the network's name or bridge already.
func free(snapshot *inventory.Snapshot, plan *network.Plan) error {
	if n, ok := snapshot.NetworkOf(plan.Name); ok {
		switch {
		case n.File != "":
			return cni.ConfigErrorf("name: %q is taken by %s; choose another, or trestle network rm %s", plan.Name, n.File, plan.Name)
		case n.Attachments > 0:
			return cni.ConfigErrorf("name: %q had a network before, whose addresses are not all free yet (%s); choose another, or trestle network rm %s", plan.Name, counted(n.Attachments, "container"), plan.Name)
		}
	}
	for _, n := range snapshot.Networks {
		if n.Bridge == plan.Bridge {
			return cni.ConfigErrorf("--bridge: %s is that of network %s (%s); choose another", plan.Bridge, n.Name, n.File)
		}
	}
	if l, ok := snapshot.LinkOf(plan.Bridge); ok {
		return cni.ConfigErrorf("--bridge: there is an interface %s (%s) already, of no network; choose another, or ip link delete %s", l.Name, l.Kind, l.Name)
	}
	return nil
}

// takenSubnets are what a new network must not overlap with.
func takenSubnets(snapshot *inventory.Snapshot) ([]network.Taken, error) {
	var taken []network.Taken
	for _, n := range snapshot.Networks {
		for _, pool := range n.Pools {
			taken = append(taken, network.Taken{Prefix: pool.Subnet, Holder: "network " + n.Name})
		}
	}
	for _, l := range snapshot.Links {
		for _, address := range l.Addresses {
			taken = append(taken, network.Taken{Prefix: address.Masked(), Holder: fmt.Sprintf("address %s of %s", address, l.Name)})
		}
	}
	for _, r := range snapshot.Routes {
		if r.To.Bits() > 0 {
			taken = append(taken, network.Taken{Prefix: r.To, Holder: "a route by " + r.Link})
		}
	}
	docker, err := network.DockerPools(dockerConfig)
	return append(taken, docker...), err
}
