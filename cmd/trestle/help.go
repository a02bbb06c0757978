package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

// narrow makes help fit into the terminals that there are: cobra's own has lines as long
// as what is said of a flag.
func narrow(root *cobra.Command) {
	cobra.AddTemplateFunc("fold", fold)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 80 "))
	root.SetHelpTemplate(strings.ReplaceAll(root.HelpTemplate(), "{{. | trimTrailingWhitespaces}}", "{{. | fold | trimTrailingWhitespaces}}"))
}

// fold wraps paragraphs, but for those with indented lines, which are lists.
func fold(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, paragraph := range paragraphs {
		if !strings.HasPrefix(paragraph, " ") && !strings.Contains(paragraph, "\n ") {
			paragraphs[i] = strings.TrimRight((&ui.Printer{}).Wrap("", strings.ReplaceAll(paragraph, "\n", " ")), "\n")
		}
	}
	return strings.Join(paragraphs, "\n\n")
}
