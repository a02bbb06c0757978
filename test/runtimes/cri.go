package runtimes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/trestle-cni/trestle/test/host"
)

// CRIConfig is what a node's containerd 1.6 needs beside its defaults: the
// image of pods, and leave of two things that a container without all
// capabilities lacks.
const CRIConfig = `version = 2
root = "%[1]s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + Image + `"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
`

// CRIConfig2 is CRIConfig for containerd 2.
const CRIConfig2 = `version = 3
root = "%[1]s"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "` + Snapshotter + `"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "` + Image + `"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
[plugins.'io.containerd.internal.v1.opt']
  path = "%[1]s/opt"
`

// Call is one call of the Container Runtime Interface; Request is encoded as
// protobuf's JSON with the names of the .proto file.
type Call struct {
	Method  string `json:"method"`
	Request any    `json:"request,omitempty"`
}

// Reply is the answer to a Call.
type Reply struct {
	Response json.RawMessage `json:"response"`
	Error    string          `json:"error"`
}

// Err is the runtime's error, if any.
func (r Reply) Err() error {
	if r.Error == "" {
		return nil
	}
	return errors.New(r.Error)
}

// Decode reads the response into a value of the caller's.
func (r Reply) Decode(into any) error {
	if err := r.Err(); err != nil {
		return err
	}
	return json.Unmarshal(r.Response, into)
}

// Calls makes all calls at once, as the kubelet does, and returns their answers
// in the same order.
func (c *Containerd) Calls(calls ...Call) []Reply {
	c.m.t.Helper()
	replies, err := c.tryCalls(calls)
	if err != nil {
		c.m.t.Fatalf("%v", err)
	}
	return replies
}

func (c *Containerd) tryCalls(calls []Call) ([]Reply, error) {
	programs, err := buildPrograms()
	if err != nil {
		return nil, err
	}
	var stdin bytes.Buffer
	for _, call := range calls {
		if err := json.NewEncoder(&stdin).Encode(call); err != nil {
			return nil, fmt.Errorf("encode %s: %w", call.Method, err)
		}
	}
	output, err := c.m.Run(host.Command{Args: []string{programs.cri, containerdSocket}, Stdin: stdin.String()})
	if err != nil {
		return nil, err
	}
	var replies []Reply
	for decoder := json.NewDecoder(bytes.NewBufferString(output.Stdout)); decoder.More(); {
		var reply Reply
		if err := decoder.Decode(&reply); err != nil {
			return nil, fmt.Errorf("reply %d of %d: %w", len(replies)+1, len(calls), err)
		}
		replies = append(replies, reply)
	}
	if len(replies) != len(calls) {
		return nil, fmt.Errorf("got %d replies to %d calls: %s", len(replies), len(calls), output.Stderr)
	}
	return replies, nil
}

// Call makes one call, and decodes the response where into is not nil.
func (c *Containerd) Call(method string, request, into any) error {
	c.m.t.Helper()
	reply := c.Calls(Call{method, request})[0]
	if into == nil {
		return reply.Err()
	}
	return reply.Decode(into)
}

// object is a JSON object in the making.
type object = map[string]any

// Port is a host port of a pod.
type Port struct {
	Protocol string `json:"protocol"` // "TCP", "UDP"
	Host     int    `json:"host_port"`
	Pod      int    `json:"container_port"`
	HostIP   string `json:"host_ip,omitempty"`
}

// Pod is what a kubelet asks of a runtime for a pod, and what the runtime then
// said of it.
type Pod struct {
	Name        string
	Ports       []Port
	Annotations map[string]string

	ID string
}

// ManyPods are pods with a host port each, from 9000.
func ManyPods(n int) []*Pod {
	var pods []*Pod
	for i := range n {
		pods = append(pods, &Pod{Name: fmt.Sprint("p", i), Ports: []Port{{Protocol: "TCP", Host: 9000 + i, Pod: 80}}})
	}
	return pods
}

// PodDNS is what every Pod's resolv.conf must hold.
var PodDNS = []string{"nameserver 192.0.2.53", "search ns1.svc.test", "options ndots:5"}

func (p *Pod) config() object {
	return object{
		"metadata":      object{"name": p.Name, "namespace": "ns1", "uid": "uid-" + p.Name},
		"hostname":      p.Name,
		"log_directory": scratch + "/logs/" + p.Name,
		"dns_config":    object{"servers": []string{"192.0.2.53"}, "searches": []string{"ns1.svc.test"}, "options": []string{"ndots:5"}},
		"port_mappings": p.Ports,
		"annotations":   p.Annotations,
		"linux":         object{},
	}
}

// RunPods makes the sandboxes of all pods at once. The error names those that failed.
func (c *Containerd) RunPods(pods ...*Pod) error {
	c.m.t.Helper()
	var calls []Call
	for _, pod := range pods {
		calls = append(calls, Call{"RunPodSandbox", object{"config": pod.config()}})
	}
	var failed []error
	for i, reply := range c.Calls(calls...) {
		var made struct {
			ID string `json:"pod_sandbox_id"`
		}
		if err := reply.Decode(&made); err != nil {
			failed = append(failed, fmt.Errorf("run pod %s: %w", pods[i].Name, err))
			continue
		}
		pods[i].ID = made.ID
	}
	return errors.Join(failed...)
}

// ForPods calls a method that takes nothing but the id of a sandbox for all of them at once.
func (c *Containerd) ForPods(method string, pods ...*Pod) error {
	c.m.t.Helper()
	var calls []Call
	for _, pod := range pods {
		calls = append(calls, Call{method, object{"pod_sandbox_id": pod.ID}})
	}
	var failed []error
	for i, reply := range c.Calls(calls...) {
		if err := reply.Err(); err != nil {
			failed = append(failed, fmt.Errorf("%s of %s: %w", method, pods[i].Name, err))
		}
	}
	return errors.Join(failed...)
}

// RemovePods stops and removes all pods, all at once.
func (c *Containerd) RemovePods(pods ...*Pod) error {
	c.m.t.Helper()
	return errors.Join(c.ForPods("StopPodSandbox", pods...), c.ForPods("RemovePodSandbox", pods...))
}

// Pods is the pods that the runtime knows, with their ids.
func (c *Containerd) Pods() ([]*Pod, error) {
	c.m.t.Helper()
	var list struct {
		Items []struct {
			ID       string `json:"id"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		} `json:"items"`
	}
	err := c.Call("ListPodSandbox", nil, &list)
	var pods []*Pod
	for _, item := range list.Items {
		pods = append(pods, &Pod{Name: item.Metadata.Name, ID: item.ID})
	}
	return pods, err
}

// PodAddresses is the pod's addresses, and its network namespace, as the runtime tells them.
func (c *Containerd) PodAddresses(pod *Pod) ([]netip.Addr, error) {
	c.m.t.Helper()
	var answer struct {
		Status struct {
			Network struct {
				IP         netip.Addr `json:"ip"`
				Additional []struct {
					IP netip.Addr `json:"ip"`
				} `json:"additional_ips"`
			} `json:"network"`
		} `json:"status"`
	}
	err := c.Call("PodSandboxStatus", object{"pod_sandbox_id": pod.ID}, &answer)
	addresses := []netip.Addr{answer.Status.Network.IP}
	for _, more := range answer.Status.Network.Additional {
		addresses = append(addresses, more.IP)
	}
	return addresses, err
}

// RunContainer runs a command in a container of the pod, and returns its id.
func (c *Containerd) RunContainer(pod *Pod, command ...string) (string, error) {
	c.m.t.Helper()
	var made struct {
		ID string `json:"container_id"`
	}
	err := c.Call("CreateContainer", object{
		"pod_sandbox_id": pod.ID,
		"sandbox_config": pod.config(),
		"config": object{
			"metadata": object{"name": "c"}, "image": object{"image": Image}, "command": command, "log_path": "c.log",
		},
	}, &made)
	if err != nil {
		return "", err
	}
	return made.ID, c.Call("StartContainer", object{"container_id": made.ID}, nil)
}

// ExecSync runs a command in a container to its end.
func (c *Containerd) ExecSync(container string, command ...string) (host.Output, error) {
	c.m.t.Helper()
	var answer struct {
		Stdout []byte `json:"stdout"`
		Stderr []byte `json:"stderr"`
		Code   int    `json:"exit_code"`
	}
	err := c.Call("ExecSync", object{"container_id": container, "cmd": command, "timeout": 20}, &answer)
	return host.Output{Stdout: string(answer.Stdout), Stderr: string(answer.Stderr), Code: answer.Code}, err
}

// UseNetwork gives the runtime its network, and waits until it has seen it.
func (c *Containerd) UseNetwork(conflist string) {
	c.m.t.Helper()
	c.m.InstallNetwork("10-n.conflist", conflist)
	err := eventually(func() error {
		if ready, why := c.NetworkReady(); !ready {
			return errors.New(why)
		}
		return nil
	})
	if err != nil {
		c.m.t.Fatalf("the network is not ready: %v", err)
	}
}

// NetworkReady is whether the runtime says that pods can have a network, and if
// not, why.
func (c *Containerd) NetworkReady() (bool, string) {
	c.m.t.Helper()
	var answer struct {
		Status struct {
			Conditions []struct {
				Type    string `json:"type"`
				Status  bool   `json:"status"`
				Message string `json:"message"`
			} `json:"conditions"`
		} `json:"status"`
	}
	if err := c.Call("Status", nil, &answer); err != nil {
		return false, err.Error()
	}
	for _, condition := range answer.Status.Conditions {
		if condition.Type == "NetworkReady" {
			return condition.Status, condition.Message
		}
	}
	return false, "no such condition"
}

// WaitForCRI waits until the runtime answers to CRI.
func (c *Containerd) WaitForCRI() {
	c.m.t.Helper()
	err := eventually(func() error {
		replies, err := c.tryCalls([]Call{{Method: "Version"}})
		if err != nil {
			return err
		}
		return replies[0].Err()
	})
	if err != nil {
		c.m.t.Fatalf("containerd does not answer to CRI: %v", err)
	}
}
