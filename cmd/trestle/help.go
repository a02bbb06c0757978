package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/internal/cli"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// strictHelp makes "help" refuse what is no command, for which cobra shows the root's help, and
// leaves the commands of trestle-node to that.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		return // it was added just now
	}
	show := help.Run
	help.Run = nil
	help.RunE = func(c *cobra.Command, args []string) error {
		command, rest, err := root.Find(args)
		switch {
		case err != nil:
			return cni.ConfigErrorf("help: %w", err)
		case len(rest) > 0 && command.DisableFlagParsing:
			return command.RunE(command, append(rest, "--help"))
		case len(rest) > 0:
			return cli.Unknown(command, rest[0])
		}
		show(c, args)
		return nil
	}
}

// narrow wraps the help at 80 columns; cobra's own has one line for each flag, however long.
func narrow(root *cobra.Command) {
	cobra.AddTemplateFunc("fold", fold)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 80 "))
	root.SetHelpTemplate(strings.ReplaceAll(root.HelpTemplate(), "{{. | trimTrailingWhitespaces}}", "{{. | fold | trimTrailingWhitespaces}}"))
}

// fold wraps paragraphs, except those with indented lines, which are lists.
func fold(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, paragraph := range paragraphs {
		if !strings.HasPrefix(paragraph, " ") && !strings.Contains(paragraph, "\n ") {
			paragraphs[i] = strings.TrimRight((&ui.Printer{}).Wrap("", strings.ReplaceAll(paragraph, "\n", " ")), "\n")
		}
	}
	return strings.Join(paragraphs, "\n\n")
}
