package main

import "github.com/spf13/cobra"

func newClusterCommand() *cobra.Command {
	return newElsewhereCommand("cluster", "What all hosts of a network share (trestle-node)",
		`What all hosts of a network share: its configuration, hosts and subnets. It runs
trestle-node; see "trestle cluster COMMAND --help", and docs/hosts.md.

    init            make a cluster: its first configuration
    config          show or replace the configuration (get, set)
    nodes           list the hosts
    subnets         list the subnets that are taken, and by whom
    check           look for faults between all hosts, and send packets to each
    reserve         keep a subnet from hosts
    release         give back the subnets of a dead host, or a reserved one
    restore         write what this host knows into a store that has lost it
    accept          let hosts take subnets again after that
    import-flannel  make a cluster of flannel's network`)
}
