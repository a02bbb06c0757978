package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/spf13/cobra"
)

func newGCCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Take back what belongs to containers that are provably gone",
		Long: `Take back addresses, links, rules and host ports of containers that are provably
gone: of an earlier boot, or of a network namespace that is no more. It asks Trestle's
plugins of each network list, and tells them of no container, living or dead: what
cannot be proved dead stays. It may be run at any time, beside any runtime.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return collection{a.lists, a.plugins}.run(command.Context(), command.OutOrStdout())
		},
	}
}

// collection is where garbage is looked for.
type collection struct{ lists, plugins []string }

// run goes on with the next list after a failure.
func (c collection) run(ctx context.Context, out io.Writer) error {
	var failed []error
	for _, dir := range c.lists {
		files, err := libcni.ConfFiles(dir, []string{".conflist"})
		failed = append(failed, err)
		slices.Sort(files)
		for _, file := range files {
			failed = append(failed, c.collect(ctx, file, out))
		}
	}
	return errors.Join(failed...)
}

// collect asks each plugin of a list, and prints which.
func (c collection) collect(ctx context.Context, file string, out io.Writer) error {
	list, err := libcni.ConfListFromFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var asked []string
	var failed []error
	for _, plugin := range list.Plugins {
		program, err := invoke.FindInPath(plugin.Network.Type, c.plugins)
		if err != nil || !ours(program) {
			continue // a plugin that is told of no valid attachment may take it that there is none
		}
		if err := c.ask(ctx, program, list.Name, plugin.Bytes); err != nil {
			failed = append(failed, fmt.Errorf("%s: %s: %w", file, plugin.Network.Type, err))
		}
		asked = append(asked, plugin.Network.Type)
	}
	if len(asked) == 0 {
		asked = []string{"none of Trestle's plugins"}
	}
	fmt.Fprintf(out, "%s (%s): %s\n", list.Name, file, strings.Join(asked, ", "))
	return errors.Join(failed...)
}

// ask runs a plugin's GC without a list of valid attachments, whatever version the
// list says: 1.1.0 is the first that has GC.
func (c collection) ask(ctx context.Context, program, network string, config []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(config, &keys); err != nil {
		return err
	}
	name, err := json.Marshal(network)
	if err != nil {
		return err
	}
	keys["name"], keys["cniVersion"] = name, json.RawMessage(`"1.1.0"`)
	if !c.oursIsIPAM(keys["ipam"]) {
		delete(keys, "ipam")
	}
	if config, err = json.Marshal(keys); err != nil {
		return err
	}
	var stderr bytes.Buffer
	args := &invoke.Args{Command: "GC", Path: strings.Join(c.plugins, string(os.PathListSeparator))}
	_, err = (&invoke.RawExec{Stderr: &stderr}).ExecPlugin(ctx, program, config, args.AsEnv())
	return err
}

// oursIsIPAM: the configuration's IPAM plugin, which the interface's one asks in
// its turn, is Trestle's.
func (c collection) oursIsIPAM(config json.RawMessage) bool {
	var ipam struct{ Type string }
	if json.Unmarshal(config, &ipam) != nil {
		return false
	}
	program, err := invoke.FindInPath(ipam.Type, c.plugins)
	return err == nil && ours(program)
}

// ours: the program is Trestle's plugin, of whatever version, under whatever name.
func ours(program string) bool {
	resolved, err := filepath.EvalSymlinks(program)
	if err != nil {
		return false
	}
	info, err := buildinfo.ReadFile(resolved)
	return err == nil && info.Path == "github.com/trestle-cni/trestle/plugins"
}
