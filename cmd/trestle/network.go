package main

import "github.com/spf13/cobra"

func newNetworkCommand(a *app) *cobra.Command {
	return newGroupCommand("network", "Make, list and remove networks",
		newNetworkCreateCommand(a), newNetworkLsCommand(a), newNetworkInspectCommand(a),
		newNetworkRmCommand(a), newNetworkPruneCommand(a))
}
