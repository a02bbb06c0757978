package main

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/trestle-cni/trestle/pkg/cni"
)

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
