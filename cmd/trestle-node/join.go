package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// storeFlags name a store on the command line.
type storeFlags struct {
	settings   settings
	etcd       etcdSettings
	kubernetes kubernetesSettings
}

func (f *storeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.etcd.Endpoints, "etcd", nil, "URLs of etcd, like https://192.0.2.1:2379")
	flags.StringVar(&f.etcd.CA, "ca", "", "file with the certificate authority of etcd")
	flags.StringVar(&f.etcd.Cert, "cert", "", "file with this host's certificate")
	flags.StringVar(&f.etcd.Key, "key", "", "file with its key")
	flags.StringVar(&f.etcd.User, "user", "", "user of etcd")
	flags.StringVar(&f.etcd.PasswordFile, "password-file", "", "file with its password, which nobody else can read")
	flags.StringVar(&f.kubernetes.Kubeconfig, "kubeconfig", "", "file that says how to reach Kubernetes, whose Nodes are the hosts, instead of etcd")
	flags.StringVar(&f.settings.File, "file", "", "file with all hosts, instead of etcd")
	flags.StringVar(&f.settings.Cluster, "cluster", "", "name of the cluster in etcd")
}

// read returns the flags' settings or, if they name no store, those of node.json.
func (f *storeFlags) read() (settings, error) {
	if f.areNone() {
		s, err := readSettings()
		if f.settings.Cluster != "" {
			s.Cluster = f.settings.Cluster
		}
		return s, err
	}
	s := f.settings
	if len(f.etcd.Endpoints) > 0 {
		s.Etcd = &f.etcd
	}
	if f.kubernetes.Kubeconfig != "" {
		s.Kubernetes = &f.kubernetes
	}
	return s, input(errors.Join(s.fill(), s.check()))
}

// areNone says whether the flags name no store.
func (f *storeFlags) areNone() bool {
	return len(f.etcd.Endpoints) == 0 && f.kubernetes.Kubeconfig == "" && f.settings.File == ""
}

// open opens the store that the flags or node.json name.
func (f *storeFlags) open() (store, error) {
	s, err := f.read()
	if err != nil {
		return nil, err
	}
	return openStore(s)
}

func newJoinCommand() *cobra.Command {
	var flags storeFlags
	var name, device, address string
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Check that this host can be in the network, and write /etc/trestle/node.json",
		Long: `Check that the store answers and has a configuration, and that no pool overlaps addresses or routes that this host
has already; then write /etc/trestle/node.json. If anything is wrong, nothing is written. Then start trestle-node:

	systemctl enable --now trestle-node`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags.settings.Name, flags.settings.Interface = name, device
			if address != "" {
				addr, err := netip.ParseAddr(address)
				if err != nil {
					return cni.ConfigErrorf("--address: %w", err)
				}
				flags.settings.Address = addr
			}
			return join(cmd, &flags)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&name, "name", "", "this host's name in the cluster; its hostname by default")
	cmd.Flags().StringVar(&device, "interface", "", "the device that leads to the other hosts; that of the default route by default")
	cmd.Flags().StringVar(&address, "address", "", "the address at which the other hosts reach this one")
	cmd.Flags().BoolVar(&flags.settings.NAT, "nat", false, "the other hosts cannot reach it: with the backend wireguard this host sends first")
	return cmd
}

func join(cmd *cobra.Command, flags *storeFlags) error {
	if flags.areNone() {
		flags.settings.File = clusterPath
	}
	s, err := flags.read()
	if err != nil {
		return err
	}
	config, err := mayJoin(cmd.Context(), s)
	if err != nil {
		return err
	}
	written := flags.settings
	written.Etcd, written.Kubernetes = s.Etcd, s.Kubernetes
	if err := written.write(); err != nil {
		return err
	}
	text := fmt.Sprintf("wrote %s for host %s; now start it: systemctl enable --now trestle-node\n", settingsPath, s.Name)
	value := map[string]any{"settings": settingsPath, "name": s.Name}
	if config.Backend == cluster.WireGuard && s.Etcd == nil {
		key, err := wireGuardKey()
		if err != nil {
			return err
		}
		value["wgKey"] = key.PublicKey().String()
		text = fmt.Sprintf("put this host's key into its entry of %s, on all hosts: \"wgKey\": %q\n", s.File, key.PublicKey()) + text
	}
	return answer(cmd, value, text)
}

// mayJoin returns the cluster's configuration, or an error if this host cannot join it.
func mayJoin(ctx context.Context, s settings) (cluster.Config, error) {
	st, err := openStore(s)
	if err != nil {
		return cluster.Config{}, err
	}
	defer func() { _ = st.Close() }() // only read from
	view, err := st.Get(ctx, cluster.KeyConfig, cluster.PrefixNames+s.Name)
	if err != nil {
		return cluster.Config{}, err
	}
	value, ok := view.Keys[cluster.KeyConfig]
	if !ok {
		return cluster.Config{}, fmt.Errorf("%s: %w; trestle cluster init makes one", st.Describe(), cluster.ErrNoConfig)
	}
	if view.Lacking != nil {
		return cluster.Config{}, view.Lacking
	}
	config, err := cluster.ParseConfig(value.Data)
	if err != nil {
		return cluster.Config{}, err
	}
	if err := config.CheckAgent(release); err != nil {
		return cluster.Config{}, err
	}
	id, err := identity(s)
	if err != nil {
		return cluster.Config{}, err
	}
	if holder, taken := view.Keys[cluster.PrefixNames+s.Name]; taken && string(holder.Data) != id {
		return cluster.Config{}, fmt.Errorf("host name %s is taken by node %s; give this host another with --name", s.Name, holder.Data)
	}
	host, err := overlay.Open(nftDir)
	if err != nil {
		return cluster.Config{}, err
	}
	defer func() { _ = host.Close() }() // only looked at
	if _, err := host.FindUplink(s.Interface, s.addresses()...); err != nil {
		return cluster.Config{}, err
	}
	return config, checkHost(config)
}
