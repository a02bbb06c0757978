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

// Plugin is what a runtime executes: its name, what it makes, and one function for
// each command that is not the same for all. Every function is set. Their errors carry the code (see ConfigErrorf and its
// siblings); an error without one, or a panic, is answered as CodeFailed.
type Plugin struct {
	Name string
	// EntersNetNS says that CNI_NETNS must be a network namespace, and another
	// than ours. A plugin that only takes note of it gets it as it is.
	EntersNetNS bool
	// ReadsArgs says that Request.Args counts, so that a CNI_ARGS that cannot be
	// read is an error of ADD and CHECK.
	ReadsArgs bool

	// Keys are all that it reads of a configuration, but for ProtocolKeys.
	Keys func() []Key

	// States are the kinds of what it makes on the host, in the order of GC.
	States []State

	// Validate says what is wrong with the configuration.
	Validate func(*Request) error
	Add      func(*Request) (types.Result, error)
	Del      func(*Request) error
	Check    func(*Request) error
}

// Validates is a Plugin's Validate that only parses.
func Validates[T any](parse func(*Request) (T, error)) func(*Request) error {
	return func(r *Request) error {
		_, err := parse(r)
		return err
	}
}

// Main serves one call and returns the exit status of the process. release is
// the version of this build, "1.2.3".
func Main(p Plugin, release string) int {
	// A runtime that closed its end shall not kill us between two steps.
	signal.Ignore(syscall.SIGPIPE)
	if os.Getenv("CNI_COMMAND") == "" {
		// nerdctl reads the first line to learn what the plugin can do.
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

// Refuse answers a call that no plugin serves, and returns the exit status.
func Refuse(err error) int {
	r, _ := readRequest(os.Getenv, os.Stdin) // whatever else is wrong with it
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

// unmistakable rewords what go-cni, and with it containerd, takes for "there was
// nothing to delete" (its Remove looks for these words): an error of a DEL that
// gets as far as this leaves something behind, and the runtime must know.
func (r *Request) unmistakable(message string) string {
	message = strings.ReplaceAll(message, "not found", "missing")
	if r.netNSUnset {
		message = strings.ReplaceAll(message, "no such file or directory", "no such file")
	}
	return message
}

// checkEnvironment is about what only some plugins need.
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
	default: // Version: readRequest lets no other through
		return writeVersion(r.Version, stdout)
	}
}

// add answers with the result. An answer that does not get through is an
// attachment that nobody knows of, so it is taken back.
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

// writeVersion echoes the caller's version beside those that we know (CNI
// spec, "VERSION"), which is our newest where the input has none.
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

// checkNetNS refuses a CNI_NETNS that is not a network namespace, or that is our
// own, before any work is done. DEL must clean up whatever became of the
// namespace: there a path that leads nowhere, to something else, or to ours is
// dropped, since nothing there is the container's.
func (r *Request) checkNetNS(override string) error {
	if r.NetNS == "" || (r.Command != Add && r.Command != Check && r.Command != Del) {
		return nil
	}
	var theirs, ours unix.Stat_t
	err := unix.Stat(r.NetNS, &theirs)
	switch {
	case r.Command == Del && (err != nil || !IsNetNSAt(r.NetNS)):
		r.NetNS = ""
		return nil
	case err != nil:
		return EnvironmentErrorf("CNI_NETNS: %s: %w", r.NetNS, err)
	case !IsNetNSAt(r.NetNS):
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

// IsNetNSAt says whether a network namespace is at the path. It leaves no trace there.
func IsNetNSAt(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }() // only asked
	return IsNetNS(fd)
}

// IsNetNS says whether an open file is a network namespace: it asks the namespace for its
// kind (ioctl_ns(2)). Kernels before 4.11 and emulations do not answer that; there it is at
// least some namespace by its file system, which is what the reference plugins ask.
func IsNetNS(fd int) bool {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil {
		return kind == unix.CLONE_NEWNET
	}
	var stat unix.Statfs_t
	return unix.Fstatfs(fd, &stat) == nil && stat.Type == unix.NSFS_MAGIC
}
