package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Call is one execution of one plugin, to the letter: what is empty is not set
// in its environment.
type Call struct {
	Plugin      string // "bridge", or a path
	Command     string // CNI_COMMAND
	ContainerID string
	NetNS       string
	IfName      string
	Args        string
	Path        string   // CNI_PATH; the directory of Trestle's plugins where empty
	Env         []string // more variables
	Config      string   // standard input
	Strace      *Strace  // watch it, or make its system calls fail
}

// Call returns the call of a plugin for the container's eth0.
func (c *Container) Call(command, plugin, config string) Call {
	return Call{Plugin: plugin, Command: command, ContainerID: c.ID, NetNS: c.NetNS, IfName: "eth0", Config: config}
}

// Answer is what a plugin answered.
type Answer struct {
	Output
	Trace Trace // where Call.Strace was set
}

// Exec runs the plugin on the host as a runtime does.
func (h *Host) Exec(call Call) Answer {
	h.t.Helper()
	if call.Path == "" {
		call.Path = h.dirs.Trestle
	}
	program := call.Plugin
	if !strings.Contains(program, "/") {
		program = filepath.Join(h.dirs.Trestle, program)
	}
	command := Command{Args: append(capabilities(), program), Env: call.environment(), Stdin: call.Config}
	if call.Strace != nil {
		output, trace, err := h.Trace(*call.Strace, command)
		if err != nil {
			h.t.Fatalf("%v", err)
		}
		return Answer{output, trace}
	}
	output, err := h.Run(command)
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	return Answer{Output: output}
}

// capabilities is a prefix for the command of a plugin, which leaves root those that
// TRESTLE_CAPABILITIES names, as net_admin,sys_admin, and no other (make test-capabilities).
func capabilities() []string {
	names := os.Getenv("TRESTLE_CAPABILITIES")
	if names == "" {
		return nil
	}
	set := "-all,+" + strings.ReplaceAll(names, ",", ",+")
	return []string{"setpriv", "--bounding-set=" + set, "--inh-caps=" + set, "--"}
}

func (c Call) environment() []string {
	env := append([]string{}, c.Env...)
	for _, variable := range []struct{ name, value string }{
		{"CNI_COMMAND", c.Command},
		{"CNI_CONTAINERID", c.ContainerID},
		{"CNI_NETNS", c.NetNS},
		{"CNI_IFNAME", c.IfName},
		{"CNI_ARGS", c.Args},
		{"CNI_PATH", c.Path},
	} {
		if variable.value != "" {
			env = append(env, variable.name+"="+variable.value)
		}
	}
	return env
}

// PluginError is the spec's error object, and a Go error.
type PluginError struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

func (e *PluginError) Error() string { return fmt.Sprintf("code %d: %s", e.Code, e.Msg) }

// Err is nil for exit status 0, a *PluginError where the plugin answered with
// one, and another error where it broke the protocol.
func (a Answer) Err() error {
	if a.Code == 0 {
		return nil
	}
	answer := &PluginError{}
	if err := json.Unmarshal([]byte(a.Stdout), answer); err != nil || answer.Code == 0 {
		return fmt.Errorf("exit status %d without an error object: %s%s", a.Code, a.Stdout, a.Stderr)
	}
	return answer
}

// Result is the result of ADD, decoded in the version that it claims and
// converted to the newest.
func (a Answer) Result() (*types100.Result, error) {
	if err := a.Err(); err != nil {
		return nil, err
	}
	return DecodeResult([]byte(a.Stdout))
}

// DecodeResult is Answer.Result for a result from elsewhere.
func DecodeResult(data []byte) (*types100.Result, error) {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("result %q: %w", data, err)
	}
	result, err := create.Create(head.CNIVersion, data)
	if err != nil {
		return nil, fmt.Errorf("result %q: %w", data, err)
	}
	return types100.NewResultFromResult(result)
}

// CodeOf is the spec's code of an error from Exec or from a Network; 0 where it
// has none.
func CodeOf(err error) uint {
	var direct *PluginError
	var library *types.Error
	switch {
	case errors.As(err, &direct):
		return direct.Code
	case errors.As(err, &library):
		return library.Code
	}
	return 0
}
