package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/metrics"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

type metricsOptions struct {
	*app
	output, listen string
}

func newMetricsCommand(a *app) *cobra.Command {
	o := metricsOptions{app: a}
	command := &cobra.Command{
		Use:   "metrics",
		Short: "Metrics for Prometheus: pools, attachments, ports, leaks, findings",
		Long: `Write metrics in Prometheus' text format: how large pools are and how full,
attachments, published ports, what dead containers have left, and what trestle doctor
finds. A container needs an address of each range set, of whichever pool of the set: a
network is full once trestle_range_set_free_addresses of a set of its is 0.

With --output it replaces a file atomically: run it by a timer, for the textfile
collector of node_exporter. With --listen it serves /metrics until it is ended, only on
an address of the loopback interface.`,
		Example: `  trestle metrics --output /var/lib/node_exporter/trestle.prom
  trestle metrics --listen 127.0.0.1:9753`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return o.run(command.Context(), a.printer(command))
		},
	}
	command.Flags().StringVar(&o.output, "output", "", "replace this file")
	command.Flags().StringVar(&o.listen, "listen", "", "serve on this address and port of the loopback interface")
	return command
}

func (o metricsOptions) run(ctx context.Context, p *ui.Printer) error {
	switch {
	case o.listen != "" && (o.output != "" || p.JSON):
		return cni.ConfigErrorf("--listen: it goes with neither --output nor --json")
	case o.output != "" && p.JSON:
		return cni.ConfigErrorf("--output: it does not go with --json")
	case o.listen != "":
		return o.serve(ctx, p)
	}
	if o.output != "" {
		if err := (drawing{"--output", o.output}).check(); err != nil {
			return err
		}
	}
	if p.JSON {
		samples, err := o.samples(ctx, p)
		if err != nil {
			return err
		}
		return p.Document(samples)
	}
	if o.output == "" {
		return o.write(ctx, p, p.Out)
	}
	var text bytes.Buffer
	if err := o.write(ctx, p, &text); err != nil {
		return err
	}
	return replaceFile(o.output, text.String())
}

// write examines the host and writes the metrics in Prometheus' text format.
func (o metricsOptions) write(ctx context.Context, p *ui.Printer, to io.Writer) error {
	samples, err := o.samples(ctx, p)
	if err != nil {
		return err
	}
	return metrics.Write(to, samples)
}

func (o metricsOptions) samples(ctx context.Context, p *ui.Printer) ([]metrics.Sample, error) {
	snapshot, found, err := o.examine(ctx, p)
	if err != nil {
		return nil, err
	}
	return metrics.Samples(snapshot, found, release), nil
}

// patience is how long a client may take to send its request.
const patience = 10 * time.Second

// serve serves until ctx ends, and examines the host anew for each request.
func (o metricsOptions) serve(ctx context.Context, p *ui.Printer) error {
	at, err := netip.ParseAddrPort(o.listen)
	if err != nil || !at.Addr().IsLoopback() {
		return cni.ConfigErrorf("--listen: %q is not an address and port of the loopback interface, like 127.0.0.1:9753 or [::1]:9753", o.listen)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	p.Notef("trestle: http://%s/metrics", listener.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { o.answer(r.Context(), p, w) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // Prometheus asks again what is unanswered
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("--listen: %w", err)
	}
	return nil
}

func (o metricsOptions) answer(ctx context.Context, p *ui.Printer, w http.ResponseWriter) {
	var text bytes.Buffer
	err := o.write(ctx, p, &text)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	_, _ = w.Write(text.Bytes()) // it fails if the client is gone
}
