package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
)

// delegate executes an IPAM plugin as the spec says: with our environment, the whole
// configuration, and our standard error (CNI spec, section 4).
//
// The library's package invoke could do this, but it links an HTTP client (by way of
// OpenTelemetry), which costs each start of each plugin 0.4 ms.
type delegate struct{ name string }

func (delegate) needsNoLink() bool { return false }

// releasesByLink is true for dhcp: its daemon sends the release over the link; without the
// link, the server would keep the address until the lease expires. (The reference's bridge
// has the same order.) Any other plugin may lease the address again at once, so the link must
// be deleted first.
func (d delegate) releasesByLink() bool { return d.name == "dhcp" }

// Add ignores the interfaces of the IPAM plugin's result: all addresses are for the
// container's interface.
func (d delegate) Add(r *cni.Request, undo *cni.Undo) (*cni.Result, error) {
	path, found := findPlugin(d.name, r.Path)
	if found == nil {
		return nil, d.missing(r, cni.Add)
	}
	release := func() error { return d.run(r, cni.Del) }
	answer, err := d.execute(path, r, cni.Add)
	if err == nil {
		var result *cni.Result
		if result, err = cni.ParseResult("result of the IPAM plugin "+d.name, answer, r.Version); err == nil {
			result.Interfaces = nil
			for _, ip := range result.IPs {
				ip.Interface = nil
			}
			undo.Push("release the lease", release)
			return result, nil
		}
	}
	// a DEL releases what the failed ADD may have leased (CNI spec, section 4)
	if delErr := release(); delErr != nil && delErr.Error() != err.Error() {
		err = errors.Join(err, delErr)
	}
	return nil, err
}

// Del also releases what host-local has leased if the network's IPAM plugin was changed since;
// GC likewise.
func (d delegate) Del(r *cni.Request) error {
	return errors.Join(d.run(r, cni.Del), hostlocal.ReleaseFormer(r))
}

func (d delegate) GC(r *cni.Request) error {
	return errors.Join(d.run(r, cni.GC), hostlocal.ReclaimFormer(r))
}

func (d delegate) Check(r *cni.Request) error  { return d.run(r, cni.Check) }
func (d delegate) Status(r *cni.Request) error { return d.run(r, cni.Status) }

// run executes a command that has no result.
func (d delegate) run(r *cni.Request, command cni.Command) error {
	path, found := findPlugin(d.name, r.Path)
	if found == nil {
		return d.missing(r, command)
	}
	_, err := d.execute(path, r, command)
	return err
}

// execute returns the plugin's standard output. If that is an error object, the error has its
// code.
func (d delegate) execute(path string, r *cni.Request, command cni.Command) ([]byte, error) {
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+string(command))
	cmd.Stdin = bytes.NewReader(r.Stdin)
	cmd.Stderr = os.Stderr
	answer, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, d.explain(answer, failed)
	}
	if err != nil {
		return nil, fmt.Errorf("execute IPAM plugin: %w", err)
	}
	return answer, nil
}

// missing is the error if CNI_PATH does not have the plugin. On DEL and GC the plugin may hold
// addresses that only it can release, so the error must keep the runtime trying, until the
// plugin is back.
func (d delegate) missing(r *cni.Request, command cni.Command) error {
	dirs := strings.Join(r.Path, ":")
	const wayOut = "install it there and repeat this, or, if it holds nothing, take it out of the configuration"
	switch command {
	case cni.Del:
		return cni.TryAgainErrorf("ipam.type: no plugin %q in CNI_PATH (%s), which may hold an address for %s; %s", d.name, dirs, r.Owner, wayOut)
	case cni.GC:
		return cni.TryAgainErrorf("ipam.type: no plugin %q in CNI_PATH (%s), which may hold addresses of network %s; %s", d.name, dirs, r.Owner.Network, wayOut)
	}
	return cni.ConfigErrorf("ipam.type: no plugin %q in CNI_PATH (%s); install it there or name another", d.name, dirs)
}

// explain makes an error of the plugin's error object.
func (d delegate) explain(answer []byte, failed *exec.ExitError) error {
	const internal = 999 // the code of the library's skel for errors without one
	var theirs struct {
		Code         cni.Code
		Msg, Details string
	}
	if err := json.Unmarshal(answer, &theirs); err != nil || theirs.Code == 0 && theirs.Msg == "" {
		return fmt.Errorf("plugin %s: %w without an error object, but %q", d.name, failed, answer)
	}
	if theirs.Msg == "" {
		theirs.Msg = fmt.Sprintf("failed with code %d and no message", theirs.Code)
	}
	if theirs.Details != "" {
		theirs.Msg += "; " + theirs.Details
	}
	if theirs.Code == internal || theirs.Code == 0 {
		theirs.Code = cni.CodeFailed
	}
	return cni.DelegateErrorf(theirs.Code, "plugin %s: %s", d.name, theirs.Msg)
}
