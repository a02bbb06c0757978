package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// flannelFlags say where to read flannel's network, and what to make of it.
type flannelFlags struct {
	prefix, subnetEnv, network, backend string
	endpoints                           []string
}

func newImportFlannelCommand() *cobra.Command {
	var flags storeFlags
	var f flannelFlags
	cmd := &cobra.Command{
		Use:   "import-flannel",
		Short: "Make a cluster of flannel's network, in which each host keeps its subnet",
		Long: `Make a cluster of flannel's network. Flannel's configuration and leases are read from etcd and not changed; the pools
and the lengths of subnets stay the same, and each subnet is reserved for the host whose address the lease has, until it joins.

With --subnet-env only this host's own subnet is read, from the file that flannel writes: run it on each host.
If something cannot be read or reserved, nothing is written. Stop flannel on a host before it joins:
docs/hosts.md has the steps.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return importFlannel(cmd, &flags, f) },
	}
	flags.add(cmd)
	cmd.Flags().StringSliceVar(&f.endpoints, "flannel-etcd", nil, "URLs of flannel's etcd, if that is another")
	cmd.Flags().StringVar(&f.prefix, "prefix", "/coreos.com/network", "where flannel's keys are")
	cmd.Flags().StringVar(&f.subnetEnv, "subnet-env", "", "read this file instead, like /run/flannel/subnet.env")
	cmd.Flags().StringVar(&f.network, "network", "pods", "name of the network")
	cmd.Flags().StringVar(&f.backend, "backend", "", "vxlan, host-gw, auto or wireguard, instead of the one that corresponds to flannel's")
	return cmd
}

func importFlannel(cmd *cobra.Command, flags *storeFlags, f flannelFlags) error {
	s, err := flags.read()
	if err != nil {
		return err
	}
	if s.Etcd == nil {
		return cni.ConfigErrorf("import-flannel writes into etcd: --etcd is missing")
	}
	network, err := f.read(cmd.Context(), s)
	if err != nil {
		return err
	}
	network.Backend = cmp.Or(cluster.Backend(f.backend), network.Backend)
	if _, err := network.Config(""); err != nil { // a wrong flag is no fault of the store
		return input(err)
	}
	st, err := openStore(s)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // no call is pending
	if err := cluster.Import(cmd.Context(), st, network, newNonce()); err != nil {
		return err
	}
	var text strings.Builder
	for _, l := range network.Leases {
		fmt.Fprintf(&text, "kept for host %s: %s\n", l.Host, spaced(l.Subnets))
	}
	fmt.Fprintf(&text, "network %s is imported; on each host, with flannel stopped: trestle node join --etcd %s\n", f.network, strings.Join(s.Etcd.Endpoints, ","))
	return answer(cmd, map[string]any{"network": network.Network, "leases": network.Leases}, text.String())
}

// read reads flannel's network, from etcd or from this host's subnet.env.
func (f flannelFlags) read(ctx context.Context, s settings) (cluster.Flannel, error) {
	if f.subnetEnv != "" {
		return f.readSubnetEnv(s)
	}
	if len(f.endpoints) > 0 {
		theirs := *s.Etcd
		theirs.Endpoints = f.endpoints
		s.Etcd = &theirs
	}
	if err := s.check(); err != nil {
		return cluster.Flannel{}, input(err)
	}
	st, err := openEtcd(s)
	if err != nil {
		return cluster.Flannel{}, err
	}
	defer func() { _ = st.Close() }() // only read from
	st.Prefix = strings.TrimSuffix(f.prefix, "/") + "/"
	const subnets = "subnets/"
	view, err := st.Get(ctx, cluster.KeyConfig, subnets)
	if err != nil {
		return cluster.Flannel{}, err
	}
	config, ok := view.Keys[cluster.KeyConfig]
	if !ok {
		return cluster.Flannel{}, fmt.Errorf("%s: there is no key %sconfig; --prefix says where flannel's are", st.Describe(), st.Prefix)
	}
	leases := map[string][]byte{}
	for key, value := range view.Under(subnets) {
		leases[key] = value.Data
	}
	return cluster.ParseFlannel(f.network, config.Data, leases)
}

func (f flannelFlags) readSubnetEnv(s settings) (cluster.Flannel, error) {
	data, err := os.ReadFile(f.subnetEnv)
	if err != nil {
		return cluster.Flannel{}, input(err)
	}
	host, err := overlay.Open(nftDir)
	if err != nil {
		return cluster.Flannel{}, err
	}
	uplink, err := host.FindUplink(s.Interface, s.addresses()...)
	if err := errors.Join(err, host.Close()); err != nil {
		return cluster.Flannel{}, err
	}
	return cluster.ParseSubnetEnv(f.network, data, uplink.Addresses[0].Addr())
}
