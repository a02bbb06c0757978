package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// The exit statuses, which are those of trestle.
const (
	exitFailed = 1
	exitInput  = 2
)

// exitCode distinguishes a mistake in the request, or in a file that a person wrote (2), from a
// failure on the host or in the store (1).
func exitCode(err error) int {
	if cni.CodeOf(err) == cni.CodeConfig {
		return exitInput
	}
	return exitFailed
}

// input makes an error a mistake of the user's; nil stays nil.
func input(err error) error {
	if err == nil {
		return nil
	}
	return cni.ConfigErrorf("%w", err)
}

// asInput turns cobra's errors about flags and arguments into the user's mistakes.
func asInput(command *cobra.Command) {
	command.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cni.ConfigErrorf("%w; see %s --help", err, c.CommandPath())
	})
	if check := command.Args; check != nil {
		command.Args = func(c *cobra.Command, args []string) error {
			if check(c, args) == nil {
				return nil
			}
			given := "nothing is"
			if len(args) > 0 {
				given = fmt.Sprintf("%q is", strings.Join(args, " "))
			}
			return cni.ConfigErrorf("%s: it is used as %q, and %s given; see %s --help", c.Name(), c.UseLine(), given, c.CommandPath())
		}
	}
	for _, child := range command.Commands() {
		asInput(child)
	}
}
