package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// onStore makes do, which works on the store, the command's function.
func onStore(cmd *cobra.Command, do func(cmd *cobra.Command, args []string, st store) error) *cobra.Command {
	var flags storeFlags
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		st, err := flags.open()
		if err != nil {
			return err
		}
		defer func() { _ = st.Close() }() // no call is pending
		return do(cmd, args, st)
	}
	return cmd
}

// poolFlags describe a network on the command line.
type poolFlags struct {
	name, ipv4, ipv6, backend string
	len4, len6                int
	nodes                     []string
}

func newInitCommand() *cobra.Command {
	var flags storeFlags
	var p poolFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a cluster: write its first configuration into etcd, or a file with all hosts",
		Long: `Make a cluster with one network. With --etcd the configuration is written there; hosts join with trestle node join.

With --kubeconfig, for a Kubernetes cluster, it is written to /etc/trestle/cluster.json; the pools are the cluster's podCIDRs.

Without either, each --node name=address/length becomes a host of the file /etc/trestle/cluster.json (or --file), with a subnet of
its own. Copy the file to all of them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return initCluster(cmd, &flags, p) },
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.StringVar(&p.name, "network", "pods", "name of the network")
	f.StringVar(&p.ipv4, "pool", "", "addresses of the network, like 10.40.0.0/16")
	f.StringVar(&p.ipv6, "pool6", "", "IPv6 addresses of the network, like fd40::/48")
	f.IntVar(&p.len4, "subnet-len", 24, "length of each host's subnet")
	f.IntVar(&p.len6, "subnet-len6", 64, "length of each host's IPv6 subnet")
	f.StringVar(&p.backend, "backend", "vxlan", "vxlan, host-gw (all hosts on one link), auto (direct where on one link), or wireguard (encrypted)")
	f.StringArrayVar(&p.nodes, "node", nil, "a host of the file, as name=address/length; repeat it for each host")
	return cmd
}

func (p poolFlags) config() (cluster.Config, error) {
	network := cluster.Network{Name: p.name}
	for _, one := range []struct {
		flag, prefix string
		length       int
		to           **cluster.Pool
	}{{"--pool", p.ipv4, p.len4, &network.IPv4}, {"--pool6", p.ipv6, p.len6, &network.IPv6}} {
		if one.prefix == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(one.prefix)
		if err != nil {
			return cluster.Config{}, cni.ConfigErrorf("%s: %q is not a prefix; write it like 10.40.0.0/16 or fd40::/48", one.flag, one.prefix)
		}
		*one.to = &cluster.Pool{Prefix: prefix, SubnetLen: one.length}
	}
	c := cluster.Config{ID: newNonce(), Networks: []cluster.Network{network}, Backend: cluster.Backend(p.backend)}
	data, err := json.Marshal(c)
	if err != nil {
		return c, err
	}
	c, err = cluster.ParseConfig(data)
	return c, input(err)
}

func initCluster(cmd *cobra.Command, flags *storeFlags, p poolFlags) error {
	config, err := p.config()
	if err != nil {
		return err
	}
	if err := checkOverlaps(config); err != nil {
		return err
	}
	if len(p.nodes) > 0 {
		return initFile(cmd, flags, p, config)
	}
	if flags.kubernetes.Kubeconfig != "" {
		return initKubernetes(cmd, flags.kubernetes.Kubeconfig, config)
	}
	if len(flags.etcd.Endpoints) == 0 {
		return cni.ConfigErrorf("none of --etcd, --kubeconfig and --node: the configuration goes into etcd, or into a file")
	}
	st, err := flags.open()
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // no call is pending
	if err := cluster.Init(cmd.Context(), st, config); err != nil {
		return err
	}
	text := fmt.Sprintf("cluster %s is made; on each host: trestle node join --etcd %s\n", config.ID, strings.Join(flags.etcd.Endpoints, ","))
	return answer(cmd, map[string]string{"id": config.ID}, text)
}

// initKubernetes writes the configuration alone: Kubernetes has the hosts and their subnets.
func initKubernetes(cmd *cobra.Command, kubeconfig string, config cluster.Config) error {
	config.ID = ""
	if err := writeNew(clusterPath, config); err != nil {
		return err
	}
	text := fmt.Sprintf("wrote %s; copy it to each host, and there: trestle node join --kubeconfig %s\n", clusterPath, kubeconfig)
	return answer(cmd, map[string]string{"file": clusterPath}, text)
}

// writeNew writes a list of hosts to a file that does not exist yet.
func writeNew(path string, document any) error {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s is there already; change that, or remove it", path)
	}
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	if _, err := parseFile(data); err != nil {
		return input(err)
	}
	return cluster.WriteFile(path, append(data, '\n'), 0o644)
}

// initFile writes a list of the hosts on the command line, each with the next subnet.
func initFile(cmd *cobra.Command, flags *storeFlags, p poolFlags, config cluster.Config) error {
	path := flags.settings.File
	if path == "" {
		path = clusterPath
	}
	var nodes []fileNode
	for i, text := range p.nodes {
		name, address, _ := strings.Cut(text, "=")
		underlay, err := netip.ParsePrefix(address)
		if err != nil {
			return cni.ConfigErrorf("--node: %q is not name=address/length, like a=192.0.2.1/24", text)
		}
		n := fileNode{Name: name, Underlay: []netip.Prefix{underlay}, Subnets: map[string][]netip.Prefix{}}
		for _, pool := range config.Networks[0].Pools() {
			if uint64(i) >= pool.Size() {
				return cni.ConfigErrorf("pool %s has %d subnets of length %d, and there are %d hosts", pool.Prefix, pool.Size(), pool.SubnetLen, len(p.nodes))
			}
			n.Subnets[p.name] = append(n.Subnets[p.name], pool.Subnet(uint64(i)))
		}
		nodes = append(nodes, n)
	}
	document := struct {
		Networks []cluster.Network `json:"networks"`
		Backend  cluster.Backend   `json:"backend"`
		Nodes    []fileNode        `json:"nodes"`
	}{config.Networks, config.Backend, nodes}
	if err := writeNew(path, document); err != nil {
		return err
	}
	text := fmt.Sprintf("wrote %s (hosts: %d); copy it to each of them, and there: trestle node join --name <its name>\n", path, len(nodes))
	return answer(cmd, map[string]any{"file": path, "nodes": len(nodes)}, text)
}

func newConfigCommand() *cobra.Command {
	config := group("config", "The configuration that all hosts share")
	config.AddCommand(
		onStore(&cobra.Command{
			Use:   "get",
			Short: "Print the configuration",
			Args:  cobra.NoArgs,
		}, func(cmd *cobra.Command, _ []string, st store) error {
			view, err := st.Get(cmd.Context(), cluster.KeyConfig)
			if err != nil {
				return err
			}
			value, ok := view.Keys[cluster.KeyConfig]
			if !ok {
				return fmt.Errorf("%s: %w; trestle cluster init makes one", st.Describe(), cluster.ErrNoConfig)
			}
			return printJSON(cmd.OutOrStdout(), json.RawMessage(value.Data))
		}),
		onStore(&cobra.Command{
			Use:   "set FILE",
			Short: `Replace the configuration by that of a file ("-": standard input)`,
			Args:  cobra.ExactArgs(1),
		}, func(cmd *cobra.Command, args []string, st store) error {
			data, err := readInput(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := cluster.ParseConfig(data)
			if err != nil {
				return input(err)
			}
			if err := c.CheckAgent(release); err != nil {
				return cni.ConfigErrorf("config: minAgent: the host that sets it must have that version itself: %w", err)
			}
			if err := cluster.SetConfig(cmd.Context(), st, c); err != nil {
				return err
			}
			older, err := olderHosts(cmd.Context(), st, c)
			if err != nil {
				return err
			}
			return say(cmd, "set; hosts apply it within a heartbeat%s", older)
		}),
	)
	return config
}

// olderHosts names the hosts whose agent is older than the configuration's minAgent.
func olderHosts(ctx context.Context, st store, c cluster.Config) (string, error) {
	view, err := st.Get(ctx, cluster.PrefixNodes, cluster.PrefixAlive)
	if err != nil {
		return "", err
	}
	var older []string
	for _, n := range listNodes(view) {
		if n.Error == "" && c.CheckAgent(n.Version) != nil {
			older = append(older, fmt.Sprintf("%s (%s)", n.Name, n.Version))
		}
	}
	if len(older) == 0 {
		return "", nil
	}
	return "; these are too old, and keep only what they have until they are upgraded: " + strings.Join(older, ", "), nil
}

func readInput(cmd *cobra.Command, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	data, err := os.ReadFile(path)
	return data, input(err)
}

// listedNode is a host in the store: its record, or why that cannot be read.
type listedNode struct {
	ID       string          `json:"id"`
	Name     string          `json:"name,omitempty"`
	Underlay []netip.Prefix  `json:"underlay,omitempty"`
	MTU      int             `json:"mtu,omitempty"`
	Subnets  []cluster.Owned `json:"subnets,omitempty"`
	Version  string          `json:"version,omitempty"`
	// Up says that the store has a sign of life of the host, which expires without the host.
	Up    bool   `json:"up"`
	Error string `json:"error,omitempty"`
}

// listNodes lists the hosts, sorted by name, and then those whose record cannot be read.
func listNodes(view cluster.View) []listedNode {
	listing, alive := cluster.NewListing(view), view.Under(cluster.PrefixAlive)
	isUp := func(id string) bool { _, up := alive[id]; return up || view.Fixed }
	nodes := []listedNode{}
	for id, n := range listing.Nodes {
		nodes = append(nodes, listedNode{
			ID: id, Name: n.Name, Underlay: n.Underlay, MTU: n.MTU, Subnets: n.Subnets, Version: n.Version, Up: isUp(id),
		})
	}
	slices.SortFunc(nodes, func(a, b listedNode) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	for _, id := range slices.Sorted(maps.Keys(listing.Unreadable)) {
		nodes = append(nodes, listedNode{ID: id, Up: isUp(id), Error: listing.Unreadable[id].Error()})
	}
	return nodes
}

func newNodesCommand() *cobra.Command {
	return onStore(&cobra.Command{
		Use:   "nodes",
		Short: "List the hosts",
		Args:  cobra.NoArgs,
	}, func(cmd *cobra.Command, _ []string, st store) error {
		view, err := st.Get(cmd.Context(), cluster.PrefixNodes, cluster.PrefixAlive)
		if err != nil {
			return err
		}
		nodes := listNodes(view)
		var text, problems strings.Builder
		table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
		fmt.Fprintln(table, "NAME\tID\tADDRESS\tUP\tSUBNETS")
		for _, n := range nodes {
			if n.Error != "" {
				fmt.Fprintf(&problems, "the record of node %s cannot be read: %s\n", n.ID, n.Error)
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%v\t%s\n", n.Name, n.ID, spaced(n.Underlay), n.Up, spaced(prefixesOf(n.Subnets...)))
		}
		_ = table.Flush() // into memory
		return answer(cmd, nodes, text.String()+problems.String())
	})
}

func newSubnetsCommand() *cobra.Command {
	return onStore(&cobra.Command{
		Use:   "subnets",
		Short: "List the subnets that are taken, and by whom",
		Args:  cobra.NoArgs,
	}, func(cmd *cobra.Command, _ []string, st store) error {
		view, err := st.Get(cmd.Context(), cluster.KeyConfig, cluster.PrefixClaims, cluster.PrefixNodes)
		if err != nil {
			return err
		}
		holders := cluster.Holders(view)
		var text strings.Builder
		table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
		fmt.Fprintln(table, "NETWORK\tSUBNET\tNODE\tRESERVED")
		for _, h := range holders {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", h.Network, h.Subnet, h.Node, h.Reserved)
		}
		_ = table.Flush() // into memory
		if err := printUse(&text, view, holders); err != nil {
			return err
		}
		return answer(cmd, append([]cluster.Holder{}, holders...), text.String())
	})
}

// printUse prints how full each pool is.
func printUse(out io.Writer, view cluster.View, holders []cluster.Holder) error {
	config, err := cluster.ParseConfig(view.Keys[cluster.KeyConfig].Data)
	if err != nil {
		return err
	}
	for _, u := range poolUse(config, holders) {
		fmt.Fprintln(out, u)
	}
	return nil
}

// parseSubnet reads a subnet from the command line.
func parseSubnet(text string) (netip.Prefix, error) {
	subnet, err := netip.ParsePrefix(text)
	if err != nil {
		return subnet, cni.ConfigErrorf("%q is not a subnet; write it like 10.40.7.0/24 or fd40:0:0:7::/64", text)
	}
	return subnet.Masked(), nil
}

func newReserveCommand() *cobra.Command {
	why := ""
	cmd := onStore(&cobra.Command{
		Use:   "reserve NETWORK SUBNET",
		Short: "Keep hosts from getting a subnet",
		Args:  cobra.ExactArgs(2),
	}, func(cmd *cobra.Command, args []string, st store) error {
		subnet, err := parseSubnet(args[1])
		if err != nil {
			return err
		}
		o := cluster.Owned{Network: args[0], Subnet: subnet, Nonce: newNonce()}
		if err := cluster.Reserve(cmd.Context(), st, o, why); err != nil {
			return err
		}
		return say(cmd, "%s %s is reserved: no host gets it", o.Network, o.Subnet)
	})
	cmd.Flags().StringVar(&why, "why", "reserved", "what for")
	return cmd
}

func newReleaseCommand() *cobra.Command {
	dead := ""
	cmd := onStore(&cobra.Command{
		Use:   "release (--node-is-dead NAME | NETWORK SUBNET)",
		Short: "Release the subnets of a dead host, or a reserved subnet",
		Long: `Release the subnets of a dead host, given by name or id, so that other hosts can get them; or a reserved subnet. A host that is alive
gives up its subnets when it hears of that, and its containers must be restarted: until then two hosts may have the same subnet.`,
		Args: cobra.MaximumNArgs(2),
	}, func(cmd *cobra.Command, args []string, st store) error {
		if dead != "" && len(args) == 0 {
			id, err := nodeID(cmd.Context(), st, dead)
			if err != nil {
				return err
			}
			if err := cluster.Release(cmd.Context(), st, id, time.Now()); err != nil {
				return err
			}
			return say(cmd, "the subnets of node %s are free, after their quarantine", id)
		}
		if dead != "" || len(args) != 2 {
			return cni.ConfigErrorf("it takes either --node-is-dead and a host, or a network and a reserved subnet of it")
		}
		subnet, err := parseSubnet(args[1])
		if err != nil {
			return err
		}
		if err := cluster.Unreserve(cmd.Context(), st, args[0], subnet); err != nil {
			return err
		}
		return say(cmd, "%s %s is not reserved any more", args[0], subnet)
	})
	cmd.Flags().StringVar(&dead, "node-is-dead", "", "the host, by name or id")
	return cmd
}

// nodeID is the id of the host with this name; a name that no host has is taken for an id. One that
// is kept for a host of another name now is refused: that host may be alive.
func nodeID(ctx context.Context, st store, name string) (string, error) {
	view, err := st.Get(ctx, cluster.PrefixNames+name, cluster.PrefixNodes)
	if err != nil {
		return "", err
	}
	nodes := cluster.NewListing(view).Nodes
	for id, n := range nodes {
		if n.Name == name {
			return id, nil
		}
	}
	value, ok := view.Keys[cluster.PrefixNames+name]
	if !ok {
		return name, nil
	}
	id := string(value.Data)
	if n, listed := nodes[id]; listed {
		return "", fmt.Errorf("the name %s is kept for node %s, which is %s now; if that is the host which is dead, give its id", name, id, n.Name)
	}
	return id, nil
}

func newRestoreCommand() *cobra.Command {
	return onStore(&cobra.Command{
		Use:   "restore",
		Short: "Write what this host knows into a store that has lost it",
		Long: `Write what this host knows into a store that has lost it: the configuration, the hosts and their subnets. Keys that the
store has stay unchanged. No host gets a new subnet until trestle cluster accept.`,
		Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, _ []string, st store) error {
		state, err := cluster.ReadState(statePath)
		if err != nil {
			return err
		}
		if err := cluster.Restore(cmd.Context(), st, state); err != nil {
			return err
		}
		text := fmt.Sprintf("restored (hosts: %d); when trestle cluster nodes lists all that are alive: trestle cluster accept", len(state.Peers)+1)
		for _, r := range state.Unreserved() {
			text += fmt.Sprintf("\nbefore that: %s of %s was reserved (%s), and is not any more; unless a host has it by now: trestle cluster reserve %[2]s %[1]s", r.Subnet, r.Network, r.Reserved)
		}
		return say(cmd, "%s", text)
	})
}

func newAcceptAllCommand() *cobra.Command {
	return onStore(&cobra.Command{
		Use:   "accept",
		Short: "Let hosts take new subnets again, after the store was lost or restored",
		Long: `Let hosts take new subnets again. Make sure first that trestle cluster nodes lists every host that is alive: another
host could get the subnet of one that is not listed.`,
		Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, _ []string, st store) error {
		if err := cluster.Thaw(cmd.Context(), st); err != nil {
			return err
		}
		return say(cmd, "hosts may take new subnets")
	})
}
