package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// API is the little of Kubernetes' API that trestle-node speaks to: Nodes, listed,
// watched and patched, kept in memory. What the real one does, make test-kubernetes shows.
type API struct {
	*Lab
	URL string

	mu       sync.Mutex
	version  int
	nodes    map[string]apiNode
	watchers map[chan object]bool
	refuse   int // status that everything is refused with
	server   *http.Server
}

type object = map[string]any

// apiNode is what there is of a Node.
type apiNode struct {
	name, uid string
	podCIDRs  []string
	notes     map[string]string
	version   int
}

func (n apiNode) object() object {
	return object{
		"apiVersion": "v1", "kind": "Node", "spec": object{"podCIDRs": n.podCIDRs},
		"metadata": object{"name": n.name, "uid": n.uid, "resourceVersion": strconv.Itoa(n.version), "annotations": n.notes},
	}
}

// apiAddress is where it listens, on the switch's host.
const apiAddress = "203.0.113.1:8080"

// API starts it.
func (l *Lab) API() *API {
	l.Helper()
	a := &API{Lab: l, URL: "http://" + apiAddress, version: 1000, nodes: map[string]apiNode{}, watchers: map[chan object]bool{}}
	a.Start()
	l.Cleanup(a.Stop)
	return a
}

// Start starts it again after Stop.
func (a *API) Start() {
	a.Helper()
	var listener net.Listener
	a.Eventually("the API has its port", func() error {
		return a.Switch.Do(func() (err error) {
			listener, err = net.Listen("tcp", apiAddress)
			return err
		})
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes", a.get)
	mux.HandleFunc("PATCH /api/v1/nodes/{name}", a.patch)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: Patience}
	a.server = server
	go func() { _ = server.Serve(listener) }() // ends with Stop
}

// Stop ends it and all connections.
func (a *API) Stop() { _ = a.server.Close() } // the listener is gone in any case

// Refuse has everything refused with a status, or, with 0, not any more. Watches end.
func (a *API) Refuse(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = status
	for w := range a.watchers {
		delete(a.watchers, w)
		close(w)
	}
}

// SetNode makes a Node with these podCIDRs, or gives it others.
func (a *API) SetNode(name string, podCIDRs ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := "MODIFIED"
	n, known := a.nodes[name]
	if !known {
		kind = "ADDED"
		n = apiNode{name: name, uid: fmt.Sprintf("uid-%d", a.version)}
	}
	n.podCIDRs = podCIDRs
	a.put(kind, n)
}

// DeleteNode deletes one.
func (a *API) DeleteNode(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[name]
	delete(a.nodes, name)
	a.version++
	n.version = a.version
	a.tell("DELETED", n)
}

// Wipe is a store behind the API that was restored from an old backup: versions go back, and
// only the nodes that are named are left.
func (a *API) Wipe(keep ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version -= 500
	maps.DeleteFunc(a.nodes, func(name string, _ apiNode) bool { return !slices.Contains(keep, name) })
}

// Annotation is what a Node has of ours.
func (a *API) Annotation(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nodes[name].notes["trestle.io/node"]
}

// Annotate gives a Node our annotation, as an agent there would.
func (a *API) Annotate(name, note string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[name]
	n.notes = map[string]string{"trestle.io/node": note}
	a.put("MODIFIED", n)
}

// put takes a Node over, with a new version, and tells the watchers. The lock is held.
func (a *API) put(kind string, n apiNode) {
	a.version++
	n.version = a.version
	a.nodes[n.name] = n
	a.tell(kind, n)
}

func (a *API) tell(kind string, n apiNode) {
	for w := range a.watchers {
		w <- object{"type": kind, "object": n.object()}
	}
}

func (a *API) get(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	if a.refuse != 0 {
		defer a.mu.Unlock()
		a.sayRefused(w)
		return
	}
	query := r.URL.Query()
	if query.Get("watch") != "" && query.Get("watch") != "0" && query.Get("watch") != "false" {
		a.watch(w, r) // unlocks
		return
	}
	defer a.mu.Unlock()
	name, one := strings.CutPrefix(query.Get("fieldSelector"), "metadata.name=")
	items := []object{}
	for _, key := range slices.Sorted(maps.Keys(a.nodes)) {
		if !one || key == name {
			items = append(items, a.nodes[key].object())
		}
	}
	say(w, http.StatusOK, object{
		"apiVersion": "v1", "kind": "NodeList", "metadata": object{"resourceVersion": strconv.Itoa(a.version)}, "items": items,
	})
}

// watch tells of what happens from now on; it is up to who asks to have listed before.
// One who missed something is told to list again.
func (a *API) watch(w http.ResponseWriter, r *http.Request) {
	events := make(chan object, 1000)
	missed := r.URL.Query().Get("resourceVersion") != strconv.Itoa(a.version)
	if !missed {
		a.watchers[events] = true
	}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.watchers, events)
		a.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	flusher, _ := w.(http.Flusher)
	send := func(event object) {
		_ = json.NewEncoder(w).Encode(event) // who asked is gone otherwise
		flusher.Flush()
	}
	flusher.Flush()
	if missed {
		send(object{"type": "ERROR", "object": object{
			"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Expired", "code": http.StatusGone, "message": "too old resource version",
		}})
		return
	}
	for {
		select {
		case event, ok := <-events:
			if !ok {
				return
			}
			send(event)
		case <-r.Context().Done():
			return
		}
	}
}

func (a *API) patch(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != 0 {
		a.sayRefused(w)
		return
	}
	var patch struct {
		Metadata struct {
			UID         string
			Annotations map[string]string
		}
	}
	n, known := a.nodes[r.PathValue("name")]
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil || !known {
		say(w, http.StatusNotFound, status(http.StatusNotFound, "NotFound", fmt.Sprintf("%v", err)))
		return
	}
	if patch.Metadata.UID != "" && patch.Metadata.UID != n.uid {
		say(w, http.StatusConflict, status(http.StatusConflict, "Conflict", "another UID"))
		return
	}
	n.notes = patch.Metadata.Annotations
	a.put("MODIFIED", n)
	say(w, http.StatusOK, a.nodes[n.name].object())
}

func (a *API) sayRefused(w http.ResponseWriter) {
	say(w, a.refuse, status(a.refuse, "Forbidden", `nodes is forbidden: User "nobody" cannot list resource "nodes"`))
}

func status(code int, reason, message string) object {
	return object{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": message}
}

func say(w http.ResponseWriter, code int, answer object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // who asked is gone otherwise
}

// Settings are those of a host that is one of its Nodes, with short times. The files
// that they name are written.
func (a *API) Settings(h *Host, config string) Settings {
	h.Write("/etc/trestle/cluster.json", config)
	h.Write("/etc/trestle/kubeconfig", Kubeconfig(a.URL))
	return Settings{
		"name": h.Name, "kubernetes": map[string]any{"kubeconfig": "/etc/trestle/kubeconfig"},
		"heartbeat": "2s", "audit": "2s", "timeout": "4s",
	}
}

// Kubeconfig is a file with nothing but where the API is.
func Kubeconfig(url string) string {
	return `{"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
 "clusters": [{"name": "x", "cluster": {"server": "` + url + `"}}], "users": [{"name": "x", "user": {}}]}
`
}
