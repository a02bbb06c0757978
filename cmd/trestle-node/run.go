package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

func newRunCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent (trestle-node.service does this)",
		Long: `Join the cluster of /etc/trestle/node.json and stay in it: claim a subnet of each network, maintain the
routes to all other hosts, and write the networks' configurations to /etc/cni/net.d when the host is ready.

When it ends, the network stays as it is: containers and routes stay. trestle node leave takes the host out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), logger(asJSON(cmd))) },
	}
}

// gcPercent lets garbage grow to a fifth of the live heap before it is collected: the agent
// uses little CPU, and its memory counts on every host.
const gcPercent = 20

// logger writes lines to standard error, which systemd keeps.
func logger(asJSON bool) *slog.Logger {
	if asJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

func run(ctx context.Context, log *slog.Logger) error {
	debug.SetGCPercent(gcPercent)
	lock, err := lockNode()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }() // ends with the process
	a, err := newAgent(log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, err := serve(a)
	if err != nil {
		return err
	}
	defer hangUp(server)
	a.tell() // the state on disk needs no store
	a.show() // so that there is a status before the kernel is configured
	kernelDone := make(chan error, 1)
	go func() { kernelDone <- a.kernel.run(ctx) }()
	go func() {
		defer close(a.ended)
		a.run(ctx)
	}()
	select {
	case err = <-kernelDone:
		cancel()
		<-a.ended
		return err
	case <-a.ended:
		cancel()
		return <-kernelDone
	}
}

// hangUp closes the server, after clients have read the answers to their requests.
func hangUp(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = server.Shutdown(ctx) // a client that still waits sees the connection close
}

// patienceWithAnother is how long to wait for another agent that is ending: after leave it
// answers the client (hangUp), and closes its store.
const patienceWithAnother = 4 * time.Second

// lockNode excludes a second agent, and commands that act in the agent's place.
func lockNode() (*flock.Lock, error) {
	lock, err := flock.Create(lockPath, flock.Exclusive, patienceWithAnother)
	if err != nil {
		return nil, fmt.Errorf("trestle-node runs already: %w", err)
	}
	return lock, nil
}

func newAgent(log *slog.Logger) (*agent, error) {
	s, err := readSettings()
	if err != nil {
		return nil, err
	}
	s.again = true
	id, err := identity(s)
	if err != nil {
		return nil, err
	}
	state, err := cluster.ReadState(statePath)
	if err != nil {
		return nil, err
	}
	if state.ID != "" && state.ID != id {
		return nil, fmt.Errorf("%s is of node %s, and this host is %s; trestle node reset-id makes it a new host", statePath, state.ID, id)
	}
	state.ID, state.Name = id, s.Name
	key, err := wireGuardKey()
	if err != nil {
		return nil, err
	}
	b := &board{status: hosts.Status{ID: id, Name: s.Name, State: hosts.Starting, Store: hosts.Store{Since: time.Now().UTC()}}}
	kernel := newKernel(s, key, b, log)
	kernel.underlay = state.Self.Underlay
	return &agent{
		settings: s, log: log, board: b, kernel: kernel,
		logged: map[string]bool{}, seen: map[string]time.Time{},
		member:   newMember(s, state, func(st cluster.State) error { return cluster.SaveState(statePath, st) }),
		requests: make(chan request),
		ended:    make(chan struct{}),
	}, nil
}
