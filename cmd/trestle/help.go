package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

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
