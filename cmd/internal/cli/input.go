// Package cli turns what cobra finds wrong with flags and arguments into a user's mistakes,
// which name what is wrong and the way out, and says with which status a command exits.
package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// The exit statuses of a command that has not succeeded.
const (
	Failed = 1
	Wrong  = 2
)

// ExitCode distinguishes a mistake in the request, or in a file that a person wrote (2), from a
// failure on the host or in a store (1).
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case cni.CodeOf(err) == cni.CodeConfig:
		return Wrong
	}
	return Failed
}

// Check makes the command and those below it refuse wrong flags and arguments as a user's mistake,
// and empty values of flags. One that only has subcommands shows its help, and refuses an unknown one.
func Check(command *cobra.Command) {
	command.SetFlagErrorFunc(flagError)
	check := command.Args
	if !command.Runnable() {
		command.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		check = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return Unknown(c, args[0])
		}
	}
	command.Args = func(c *cobra.Command, args []string) error {
		if err := noEmptyFlags(c); err != nil || check == nil {
			return err
		}
		err := check(c, args)
		if err == nil || cni.CodeOf(err) == cni.CodeConfig {
			return err
		}
		return cni.ConfigErrorf("%s: it is used as %q, and %s given; see %s --help", c.Name(), c.UseLine(), givenOf(args), c.CommandPath())
	}
	for _, child := range command.Commands() {
		Check(child)
	}
}

// Unknown is the error for a name that is no subcommand.
func Unknown(of *cobra.Command, name string) error {
	if like := of.SuggestionsFor(name); len(like) > 0 {
		return cni.ConfigErrorf("unknown command %q for %q; is it %s?", name, of.CommandPath(), strings.Join(like, " or "))
	}
	return cni.ConfigErrorf("unknown command %q for %q; see %s --help", name, of.CommandPath(), of.CommandPath())
}

// givenOf describes the arguments that were given, for a message.
func givenOf(args []string) string {
	if len(args) == 0 {
		return "nothing is"
	}
	return fmt.Sprintf("%q is", strings.Join(args, " "))
}

// flagError says what cobra finds wrong with a flag in a user's terms rather than Go's.
func flagError(c *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return cni.ConfigErrorf("%w; see %s --help", err, c.CommandPath())
	}
	wants := map[string]string{
		"int": "a number", "uint16": "a number up to 65535", "bool": "true or false", "duration": "a time like 2s",
	}
	flag := value.GetFlag()
	want, ok := wants[flag.Value.Type()]
	if !ok {
		return cni.ConfigErrorf("--%s: %q: %w; see %s --help", flag.Name, value.GetValue(), value.Unwrap(), c.CommandPath())
	}
	return cni.ConfigErrorf("--%s: %q is not %s", flag.Name, value.GetValue(), want)
}

// noEmptyFlags refuses a flag with an empty value: a script whose variable is empty does not
// mean to leave the flag out.
func noEmptyFlags(c *cobra.Command) (err error) {
	c.Flags().Visit(func(flag *pflag.Flag) {
		empty := flag.Value.String() == ""
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			values := list.GetSlice()
			empty = len(values) == 0 || slices.Contains(values, "")
		}
		if empty && err == nil {
			err = cni.ConfigErrorf("--%s: empty; give it a value, or leave it out", flag.Name)
		}
	})
	return err
}
