package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// Paths of all files.
const (
	settingsPath = hosts.SettingsPath
	clusterPath  = "/etc/trestle/cluster.json"
	idPath       = "/var/lib/trestle/node/id"
	statePath    = "/var/lib/trestle/node/state.json"
	keyPath      = "/var/lib/trestle/node/wg.key"
	runDir       = "/run/trestle/node"
	statusPath   = hosts.StatusPath
	socketPath   = runDir + "/socket"
	lockPath     = hosts.LockPath
	nftDir       = runDir + "/nft"
	conflistDir  = "/etc/cni/net.d"
	leaseDir     = "/var/lib/cni/networks"
)

// settings are this host's own, from node.json.
type settings struct {
	// Cluster is the cluster's name, part of the prefix of its keys in etcd.
	Cluster string `json:"cluster,omitempty"`
	// Name is the host's name in the cluster; its hostname by default.
	Name string `json:"name,omitempty"`
	// Interface or Address says which link leads to the other hosts; the link of the default
	// route where both are empty.
	Interface string     `json:"interface,omitempty"`
	Address   netip.Addr `json:"address,omitzero"`
	// NAT says that the other hosts cannot reach this one's address: with WireGuard it sends
	// first, and sends keepalives.
	NAT bool `json:"nat,omitempty"`
	// Etcd, Kubernetes or File is the store; the file /etc/trestle/cluster.json by default.
	Etcd       *etcdSettings       `json:"etcd,omitempty"`
	Kubernetes *kubernetesSettings `json:"kubernetes,omitempty"`
	File       string              `json:"file,omitempty"`

	// Heartbeat is how often the host asks whether the store still knows it, and Audit how
	// often it compares the kernel with what is wanted. Timeout bounds a call to the store.
	// Alive is how long a host counts as up after its last sign of life. Quarantine is how long
	// a released subnet is not claimed again.
	Heartbeat  duration `json:"heartbeat,omitzero"`
	Audit      duration `json:"audit,omitzero"`
	Timeout    duration `json:"timeout,omitzero"`
	Alive      duration `json:"alive,omitzero"`
	Quarantine duration `json:"quarantine,omitzero"`

	// again says that the caller of Commit reads and commits again if an answer is lost: the
	// agent does, a command does not.
	again bool
}

// etcdSettings say how to reach etcd. With https the server's certificate must be signed by
// the authority in CA, or one that the system trusts; Cert and Key are this host's own.
type etcdSettings struct {
	Endpoints    []string `json:"endpoints"`
	CA           string   `json:"ca,omitempty"`
	Cert         string   `json:"cert,omitempty"`
	Key          string   `json:"key,omitempty"`
	User         string   `json:"user,omitempty"`
	PasswordFile string   `json:"passwordFile,omitempty"`
}

// kubernetesSettings say how to reach the API. A pod gets the Node's name and addresses from
// its environment, since the file is the same on all hosts.
type kubernetesSettings struct {
	// Kubeconfig is a file; by default a pod's service account is used.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Config is the file with the network; /etc/trestle/cluster.json by default.
	Config string `json:"config,omitempty"`

	hostIPs []netip.Addr // the Node's, when the pod was created
}

// duration is a time.Duration as people write it.
type duration struct{ time.Duration }

func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

func (d *duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf(`a duration is written like "30s": %w`, cni.Plain(err))
	}
	parsed, err := time.ParseDuration(text)
	if err == nil && parsed <= 0 {
		err = fmt.Errorf("%s is not positive", text)
	}
	d.Duration = parsed
	return err
}

func readSettings() (settings, error) {
	data, err := rawfile.Read(settingsPath)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = []byte("{}"), nil
	}
	if err != nil {
		return settings{}, err
	}
	s, err := parseSettings(data)
	if err != nil {
		return settings{}, cni.ConfigErrorf("%s: %w", settingsPath, err)
	}
	return s, nil
}

func parseSettings(data []byte) (settings, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields() // a misspelt key would silently leave the default
	var s settings
	if err := decoder.Decode(&s); err != nil {
		return settings{}, cni.Plain(err)
	}
	return s, errors.Join(s.fill(), s.check())
}

func (s *settings) fill() error {
	if err := s.fillPod(); err != nil {
		return err
	}
	if s.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name: %w", err)
		}
		s.Name = name
	}
	if s.Cluster == "" {
		s.Cluster = "default"
	}
	if s.Etcd == nil && s.Kubernetes == nil && s.File == "" {
		s.File = clusterPath
	}
	for field, value := range map[*duration]time.Duration{
		&s.Heartbeat: 30 * time.Second, &s.Audit: time.Minute, &s.Timeout: 10 * time.Second, &s.Alive: 30 * time.Second, &s.Quarantine: 24 * time.Hour,
	} {
		if field.Duration == 0 {
			field.Duration = value
		}
	}
	return nil
}

// Environment variables of a pod, set from spec.nodeName and status.hostIPs (downward API,
// fieldRef).
const (
	nodeNameVariable = "NODE_NAME"
	hostIPsVariable  = "HOST_IPS"
)

// fillPod fills in what a pod's environment says of its Node.
func (s *settings) fillPod() error {
	if s.Kubernetes == nil {
		return nil
	}
	if s.Kubernetes.Config == "" {
		s.Kubernetes.Config = clusterPath
	}
	if s.Name == "" {
		s.Name = os.Getenv(nodeNameVariable)
	}
	if s.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name: %w", err)
		}
		s.Name = strings.ToLower(name) // as the kubelet names its Node
	}
	for text := range strings.SplitSeq(os.Getenv(hostIPsVariable), ",") {
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("$%s: %w", hostIPsVariable, err)
		}
		s.Kubernetes.hostIPs = append(s.Kubernetes.hostIPs, addr)
	}
	return nil
}

// addresses are the addresses, at most one of each family, at which the others reach this
// host; none where any of the uplink's will do.
func (s settings) addresses() []netip.Addr {
	switch {
	case s.Address.IsValid():
		return []netip.Addr{s.Address}
	case s.Kubernetes != nil && s.Interface == "":
		return s.Kubernetes.hostIPs
	}
	return nil
}

// uplinks are the ways to find this host's uplink, the best first. After the settings comes
// the device that was found last, since a default route may come back some time after the
// device and its address, and then any address: the Node's may have changed since the pod was
// created.
func (s settings) uplinks(last string) []named {
	ways := []named{{s.Interface, s.addresses()}}
	fixed := s.addresses()
	if !s.Address.IsValid() {
		fixed = nil
	}
	if last != "" {
		ways = append(ways, named{last, fixed})
	}
	if len(fixed) != len(s.addresses()) {
		ways = append(ways, named{s.Interface, nil})
	}
	return ways
}

// named is a device ("": the default route's) and its addresses to take; none is any.
type named struct {
	device    string
	addresses []netip.Addr
}

func (s settings) check() error {
	for field, value := range map[string]string{"name": s.Name, "cluster": s.Cluster} {
		if strings.ContainsAny(value, "/ \n\t") {
			return fmt.Errorf("%s: %q has a slash or a space", field, value)
		}
	}
	stores := 0
	for _, is := range []bool{s.Etcd != nil, s.Kubernetes != nil, s.File != ""} {
		if is {
			stores++
		}
	}
	if stores > 1 {
		return errors.New("there are more than one of etcd, kubernetes and file; a host has one store")
	}
	if s.Etcd == nil {
		return nil
	}
	return s.Etcd.check()
}

func (e *etcdSettings) check() error {
	if len(e.Endpoints) == 0 {
		return errors.New(`etcd.endpoints: none; write them like ["https://192.0.2.1:2379"]`)
	}
	https := 0
	for _, e := range e.Endpoints {
		if strings.HasPrefix(e, "https://") {
			https++
		} else if !strings.HasPrefix(e, "http://") {
			return fmt.Errorf("etcd.endpoints: %q begins with neither http:// nor https://", e)
		}
	}
	if https != 0 && https != len(e.Endpoints) {
		return errors.New("etcd.endpoints: some are http and some https; a password sent to the latter could be read at the former")
	}
	if (e.Cert == "") != (e.Key == "") {
		return errors.New("etcd.cert and etcd.key go together")
	}
	if (e.User == "") != (e.PasswordFile == "") {
		return errors.New("etcd.user and etcd.passwordFile go together")
	}
	return nil
}

// write writes node.json.
func (s settings) write() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return cluster.WriteFile(settingsPath, append(data, '\n'), 0o600)
}
