package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// Plugin is what a runtime executes: its name, the kinds of state that it makes, and a
// function for each command that is not the same for all plugins. Every function must be
// set. Their errors carry the code (see ConfigErrorf and its siblings); an error without
// one, or a panic, is answered with CodeFailed.
type Plugin struct {
	Name string
	// EntersNetNS says that CNI_NETNS must be a network namespace other than our own.
	// Without it, a plugin gets CNI_NETNS unchecked.
	EntersNetNS bool
	// ReadsArgs says that the plugin uses Request.Args, so that ADD and CHECK fail on a
	// CNI_ARGS that cannot be parsed.
	ReadsArgs bool

	// Keys are all keys of the configuration that the plugin reads, except ProtocolKeys.
	Keys func() []Key

	// States are the kinds of state that it makes on the host, in the order of GC.
	States []State

	// Validate is an error if the configuration is wrong.
	Validate func(*Request) error
	Add      func(*Request) (types.Result, error)
	Del      func(*Request) error
	Check    func(*Request) error
}

// Validates makes a Plugin's Validate of a function that parses the configuration.
func Validates[T any](parse func(*Request) (T, error)) func(*Request) error {
	return func(r *Request) error {
		_, err := parse(r)
		return err
	}
}

// Main serves one call and returns the exit status of the process. release is
// the version of this build, "1.2.3".
func Main(p Plugin, release string) int {
	// a runtime that has closed its end of the pipe must not kill us between two steps
	signal.Ignore(syscall.SIGPIPE)
	if os.Getenv("CNI_COMMAND") == "" {
		// nerdctl reads the version on the first line to learn what the plugin can do
		fmt.Fprintf(os.Stderr, "CNI %s plugin v%s\nCNI protocol versions supported: %s\n", p.Name, release, supportedVersions())
		return 0
	}
	return p.serve(os.Getenv, os.Stdin, os.Stdout)
}

func (p Plugin) serve(getenv func(string) string, stdin io.Reader, stdout io.Writer) int {
	r, err := readRequest(getenv, stdin)
	if err == nil {
		err = p.checkEnvironment(r, getenv("CNI_NETNS_OVERRIDE"))
	}
	if err == nil {
		err = Catch(func() error { return p.answer(r, stdout) })
	}
	if err == nil {
		return 0
	}
	return r.refuse(stdout, err)
}

// Refuse answers a call with err, in the caller's version, and returns the exit status.
func Refuse(err error) int {
	r, _ := readRequest(os.Getenv, os.Stdin) // only err is reported, whatever else is wrong
	return r.refuse(os.Stdout, err)
}

func (r *Request) refuse(stdout io.Writer, err error) int {
	message := explainPermission(err.Error(), err)
	if r.Command == Del {
		message = r.unmistakable(message)
	}
	if writeErr := writeError(stdout, r.Version, CodeOf(err), message); writeErr != nil {
		fmt.Fprintf(os.Stderr, "%s: %v (and could not answer: %v)\n", r, err, writeErr)
	}
	return 1
}

// unmistakable replaces the words by which go-cni, and with it containerd, recognizes that
// there was nothing to delete (its Remove looks for them, and then ignores the error): a
// failed DEL of ours leaves something behind, and the runtime must repeat it.
func (r *Request) unmistakable(message string) string {
	message = strings.ReplaceAll(message, "not found", "missing")
	if r.netNSUnset {
		message = strings.ReplaceAll(message, "no such file or directory", "no such file")
	}
	return message
}

// checkEnvironment checks the variables that only some plugins use.
func (p Plugin) checkEnvironment(r *Request, override string) error {
	if p.ReadsArgs && r.argsErr != nil && r.Command != Del {
		return r.argsErr
	}
	if !p.EntersNetNS {
		return nil
	}
	return r.checkNetNS(override)
}

func (p Plugin) answer(r *Request, stdout io.Writer) error {
	switch r.Command {
	case Add:
		return p.add(r, stdout)
	case Del:
		return p.Del(r)
	case Check:
		return p.Check(r)
	case GC:
		return p.GC(r)
	case Status:
		return p.Status(r)
	default: // Version: readRequest refuses any other
		return writeVersion(r.Version, stdout)
	}
}

// add runs ADD and writes its result. If the result cannot be written, nobody knows of the
// attachment, so it is deleted again.
func (p Plugin) add(r *Request, stdout io.Writer) error {
	result, err := p.Add(r)
	if err != nil {
		return err
	}
	if err := Catch(func() error { return writeResult(stdout, r.Version, result) }); err != nil {
		return errors.Join(IOErrorf("write the result: %w", err), p.Del(r))
	}
	return nil
}

// writeVersion answers with the versions that we support, and the caller's version, or our
// newest if the input has none (CNI spec, "VERSION").
func writeVersion(callers string, w io.Writer) error {
	answer := struct {
		CNIVersion string   `json:"cniVersion"`
		Supported  []string `json:"supportedVersions"`
	}{callers, version.All.SupportedVersions()}
	data, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// checkNetNS refuses a CNI_NETNS that is not a network namespace, or is our own, before
// anything is done. On DEL such a path is ignored instead: DEL must clean up even if the
// namespace is gone, and nothing at such a path is the container's.
func (r *Request) checkNetNS(override string) error {
	if r.NetNS == "" || (r.Command != Add && r.Command != Check && r.Command != Del) {
		return nil
	}
	var theirs, ours unix.Stat_t
	err := unix.Stat(r.NetNS, &theirs)
	var is bool
	if err == nil {
		is, err = lookForNetNS(r.NetNS)
	}
	switch {
	case saysNothing(err):
		return IOErrorf("CNI_NETNS: look at %s: %w", r.NetNS, err)
	case r.Command == Del && !is:
		r.NetNS = ""
		return nil
	case err != nil:
		return EnvironmentErrorf("CNI_NETNS: %s: %w", r.NetNS, err)
	case !is:
		return EnvironmentErrorf("CNI_NETNS: %s is not a network namespace; it is a path like /run/netns/NAME or /proc/PID/ns/net", r.NetNS)
	}
	if override == "1" || override == "true" || override == "TRUE" {
		return nil
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &ours); err != nil {
		return IOErrorf("look at our own network namespace: %w", err)
	}
	if theirs.Dev != ours.Dev || theirs.Ino != ours.Ino {
		return nil
	}
	if r.Command == Del {
		r.NetNS = ""
		return nil
	}
	return EnvironmentErrorf("CNI_NETNS: %s is the namespace that the plugin itself runs in; set CNI_NETNS_OVERRIDE=1 if that is meant", r.NetNS)
}

// IsNetNSAt says whether a network namespace is at the path. It changes nothing there.
func IsNetNSAt(path string) bool {
	is, _ := lookForNetNS(path) // what cannot be opened is no use to anybody
	return is
}

// lookForNetNS says whether a network namespace is at the path; what cannot be opened is none.
func lookForNetNS(path string) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
	return IsNetNS(fd), nil
}

// saysNothing says whether the error of a path is about this process or the whole host, so
// that it does not tell what is there.
func saysNothing(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// IsNetNS says whether an open file is a network namespace: it asks the namespace for its
// type (ioctl_ns(2)). Kernels before 4.11 and user-mode emulations do not answer; then any
// file of the namespace file system counts, as it does for the reference plugins.
func IsNetNS(fd int) bool {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil {
		return kind == unix.CLONE_NEWNET
	}
	var stat unix.Statfs_t
	return unix.Fstatfs(fd, &stat) == nil && stat.Type == unix.NSFS_MAGIC
}
