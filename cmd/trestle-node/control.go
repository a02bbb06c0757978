package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// The running agent takes requests at a socket that only root can open: POST /<operation>. It
// answers with JSON, and with an error's text.

// operations are the requests that the agent takes.
func (a *agent) operations() map[string]func(context.Context, store, bool) (said, error) {
	return map[string]func(context.Context, store, bool) (said, error){
		"leave": a.leave, "drain": a.drain, "undrain": a.undrain, "accept": a.accept,
	}
}

func serve(a *agent) (*http.Server, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, err
	}
	_ = os.Remove(socketPath) // left by a process that has ended: we have the lock
	former := unix.Umask(0o177)
	listener, err := net.Listen("unix", socketPath)
	unix.Umask(former)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for operation, do := range a.operations() {
		mux.HandleFunc("POST /"+operation, func(w http.ResponseWriter, r *http.Request) {
			said, err := a.ask(r, do)
			if err != nil {
				http.Error(w, cni.Plain(err).Error(), http.StatusConflict)
				return
			}
			_ = json.NewEncoder(w).Encode(said) // it fails if the client is gone
		})
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return server, nil
}

// ask has the agent's goroutine do the operation.
func (a *agent) ask(r *http.Request, do func(context.Context, store, bool) (said, error)) (answer said, err error) {
	ask := request{reply: make(chan error, 1), do: func(ctx context.Context, st store) (err error) {
		answer, err = do(ctx, st, r.URL.Query().Has("force"))
		return err
	}}
	select {
	case a.requests <- ask:
		err = <-ask.reply
		return answer, err
	case <-a.ended:
		if a.left {
			return said{Message: "this host has left"}, nil
		}
		return said{}, errNotRunning
	case <-r.Context().Done():
		return said{}, r.Context().Err()
	}
}

// errNotRunning is the error if there is no agent to ask.
var errNotRunning = errors.New("trestle-node does not run; systemctl start trestle-node")

// call sends a request to the running agent.
func call(ctx context.Context, operation string, force bool) (answered said, err error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socketPath)
	}}}
	url := "http://trestle-node/" + operation
	if force {
		url += "?force"
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return said{}, err
	}
	answer, err := client.Do(request)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return said{}, errNotRunning
	}
	if err != nil {
		return said{}, fmt.Errorf("ask trestle-node: %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // it has been read
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return said{}, fmt.Errorf("ask trestle-node: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return said{}, errors.New(strings.TrimSpace(string(text)))
	}
	return answered, json.Unmarshal(text, &answered)
}
