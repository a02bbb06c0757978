package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/container"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type stopOptions struct {
	*app
	seconds int
}

func newStopCommand(a *app) *cobra.Command {
	o := stopOptions{app: a}
	command := &cobra.Command{
		Use:   "stop CONTAINER…",
		Short: "Stop containers that trestle run has started",
		Long: `Stop containers that trestle run has started, in the background or not: the command
gets SIGTERM and, if it does not end within --time seconds, SIGKILL. When stop returns,
the container is detached from its networks. If stop itself is interrupted, it sends no
SIGKILL.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: offer(container.Names, 0, -1),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), a.printer(command), args)
		},
	}
	command.Flags().IntVarP(&o.seconds, "time", "t", 10, "seconds between SIGTERM and SIGKILL")
	return command
}

func (o stopOptions) run(ctx context.Context, p *ui.Printer, names []string) error {
	if o.seconds < 0 {
		return cni.ConfigErrorf("--time: %d is negative; use 0 or more", o.seconds)
	}
	var all []*container.Container
	for _, name := range names {
		c, err := container.Find(name)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	stopped := []string{}
	var failed []error
	for _, c := range all {
		if err := c.Stop(ctx, time.Duration(o.seconds)*time.Second); err != nil {
			failed = append(failed, err)
			continue
		}
		stopped = append(stopped, c.Name)
		if !p.JSON {
			p.Printf("%s\n", c.Name)
		}
	}
	_, err := o.sweep(ctx, p)
	failed = append(failed, err)
	if p.JSON {
		failed = append(failed, p.Document(stopped))
	}
	return errors.Join(failed...)
}
