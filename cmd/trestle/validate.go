package main

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/cmd/trestle/runtimes"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/cmd/trestle/validate"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

type validateOptions struct{ *app }

func newValidateCommand(a *app) *cobra.Command {
	o := validateOptions{app: a}
	return &cobra.Command{
		Use:   "validate [FILE…]",
		Short: "Find mistakes in network lists, with line and column",
		Long: `Find mistakes in network lists, with line and column: unknown keys, values of the
wrong type or that a plugin refuses, missing capabilities, plugins that are not
installed, versions that an installed runtime cannot read, names and subnets that two
lists share. Without FILE it checks the lists that runtimes read; FILE may be a
directory of lists.

Exit status: 0 if there is no mistake; 2 if a file cannot be read; 3 if there are some.`,
		Example: `  trestle validate
  trestle validate ./10-mine.conflist`,
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
}

func (o validateOptions) run(ctx context.Context, p *ui.Printer, files []string) error {
	if len(files) == 0 {
		var err error
		if files, err = network.Files(o.lists); err != nil {
			return err
		}
		if len(files) == 0 {
			p.Notef("trestle: there is no network list in %s", strings.Join(o.lists, ", "))
		}
	}
	files, err := inDirectories(files)
	if err != nil {
		return err
	}
	rules, err := o.rules(ctx)
	if err != nil {
		return err
	}
	found, err := rules.Files(files)
	if err != nil {
		return cni.ConfigErrorf("%w", err)
	}
	switch {
	case p.JSON:
		err = p.Document(found)
	case len(found) == 0:
		p.Printf("%s\n", p.Paint(ui.Good, counted(len(files), "file")+" without a mistake"))
	}
	for _, problem := range found {
		if !p.JSON {
			p.Printf("%s\n", problem)
		}
	}
	if err == nil && len(found) > 0 {
		return errFound
	}
	return err
}

// inDirectories puts the lists in a directory in place of that.
func inDirectories(names []string) ([]string, error) {
	var files []string
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || !info.IsDir() {
			files = append(files, name) // what is no file is an error when it is read
			continue
		}
		lists, err := network.Files([]string{name})
		if err != nil {
			return nil, err
		}
		if len(lists) == 0 {
			return nil, cni.ConfigErrorf("FILE: there is no network list in %s", name)
		}
		files = append(files, lists...)
	}
	return files, nil
}

func (o validateOptions) rules(ctx context.Context) (validate.Rules, error) {
	installed, err := programs.Read(o.plugins)
	versions := map[string][]string{}
	plugins := registry.Plugins()
	var installedRuntimes []validate.Runtime
	for _, r := range runtimes.Installed(ctx) {
		installedRuntimes = append(installedRuntimes, validate.Runtime(r))
	}
	return validate.Rules{
		Keys: registry.Keys,
		Ours: slices.Sorted(maps.Keys(plugins)),
		Parse: func(name string, r *cni.Request) error {
			return cni.Catch(func() error { return plugins[name]().Validate(r) })
		},
		Installed: func(name string) bool {
			_, ok := installed.Find(name)
			return ok
		},
		Versions: func(name string) []string {
			if known, ok := versions[name]; ok {
				return known
			}
			if program, ok := installed.Find(name); ok {
				versions[name], _ = program.Versions(ctx) // a plugin that does not answer has none, which is not reported
			}
			return versions[name]
		},
		Path:     o.plugins,
		Runtimes: installedRuntimes,
	}, err
}
