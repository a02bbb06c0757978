package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Every command answers with text or, with --json, with one JSON value, errors included.

const jsonFlag = "json"

func asJSON(cmd *cobra.Command) bool {
	on, err := cmd.Flags().GetBool(jsonFlag)
	return err == nil && on // a command without the flag answers with text
}

// answer prints the text or, with --json, the value.
func answer(cmd *cobra.Command, value any, text string) error {
	if asJSON(cmd) {
		return printJSON(cmd.OutOrStdout(), value)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// said is the answer of commands that change something.
type said struct {
	Message    string      `json:"message"`
	Containers []container `json:"containers,omitempty"`
}

// say answers with one sentence.
func say(cmd *cobra.Command, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return answer(cmd, said{Message: text}, text+"\n")
}

func printJSON(out io.Writer, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		_, err = fmt.Fprintln(out, string(data))
	}
	return err
}
