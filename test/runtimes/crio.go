package runtimes

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/trestle-cni/trestle/test/host"
)

// CRIO is CRI-O as plugins see it: its CNI client on a Machine.
type CRIO struct{ m *Machine }

// CRIOPod is a pod of CRI-O's; its container has the sandbox's namespace.
type CRIOPod struct {
	Name  string           `json:"name"`
	ID    string           `json:"id"`
	NetNS string           `json:"netNS"`
	Ports []map[string]any `json:"ports,omitempty"` // hostPort, containerPort, protocol, hostIP
}

// CRIO gives CRI-O a network.
func (m *Machine) CRIO(file, conflist string) *CRIO {
	m.t.Helper()
	m.InstallNetwork(file, conflist)
	return &CRIO{m}
}

// Status is what CRI-O asks before it says that the node is ready.
func (c *CRIO) Status() error {
	_, err := c.run("status", nil)
	return err
}

// Up is STATUS, ADD and CHECK; it returns CHECK's result.
func (c *CRIO) Up(pod CRIOPod) (string, error) { return c.run("up", []CRIOPod{pod}) }

// Check is CHECK, which CRI-O makes whenever it is asked for the pod's addresses.
func (c *CRIO) Check(pod CRIOPod) error {
	_, err := c.run("check", []CRIOPod{pod})
	return err
}

// Down is DEL.
func (c *CRIO) Down(pod CRIOPod) error {
	_, err := c.run("down", []CRIOPod{pod})
	return err
}

// GC is what CRI-O does when it starts, with the pods that are alive.
func (c *CRIO) GC(alive ...CRIOPod) error {
	_, err := c.run("gc", alive)
	return err
}

func (c *CRIO) run(call string, pods []CRIOPod) (string, error) {
	c.m.t.Helper()
	programs, err := buildPrograms()
	if err != nil {
		c.m.t.Fatalf("build the programs for tests: %v", err)
	}
	var stdin strings.Builder
	for _, pod := range pods {
		if err := json.NewEncoder(&stdin).Encode(pod); err != nil {
			return "", err
		}
	}
	output, err := c.m.Run(host.Command{Args: []string{programs.crio, BinDir, call}, Stdin: stdin.String()})
	if err == nil && output.Code != 0 {
		err = fmt.Errorf("%s: exit status %d: %s", call, output.Code, output.Stderr)
	}
	return output.Stdout, err
}
