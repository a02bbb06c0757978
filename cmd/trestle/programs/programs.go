// Package programs finds the plugins that runtimes execute, and tells the suite and version
// of each.
package programs

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
)

// Suite is the set of plugins that a program belongs to.
type Suite string

// The suites.
const (
	Trestle   Suite = "trestle"
	Reference Suite = "reference" // containernetworking/plugins
	Other     Suite = "other"
)

// Program is a file that a runtime may execute as a plugin.
type Program struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Suite and Version are set by Identify. Version is what the program prints without a
	// command; "" if it prints none.
	Suite   Suite  `json:"suite"`
	Version string `json:"version,omitempty"`
	// Executable says that the file's mode allows execution.
	Executable bool `json:"executable"`

	info fs.FileInfo
}

// Label is suite and version for people. A build that was told no version calls it "unknown".
func (p Program) Label() string {
	switch p.Version {
	case "":
		return string(p.Suite)
	case "unknown":
		return string(p.Suite) + ", version unknown"
	}
	return string(p.Suite) + " " + p.Version
}

// All are the programs in some directories, in their order.
type All []Program

// Find finds the program that a runtime executes for a name: the first one.
func (a All) Find(name string) (Program, bool) {
	i := slices.IndexFunc(a, func(p Program) bool { return p.Name == name })
	if i < 0 {
		return Program{}, false
	}
	return a[i], true
}

// Read lists the files in the directories; a missing directory has none. It runs no program.
func Read(dirs []string) (All, error) {
	var all All
	var failed []error
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("look for plugins: %w", err))
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() {
				continue // not a file, or removed meanwhile
			}
			all = append(all, Program{Name: entry.Name(), Path: path, Executable: info.Mode()&0o111 != 0, info: info})
		}
	}
	return all, errors.Join(failed...)
}

// Identify sets Suite and Version of the programs that a runtime executes for these names. A
// program with several names is run once.
func (a All) Identify(ctx context.Context, names []string) {
	for _, name := range names {
		if i := slices.IndexFunc(a, func(p Program) bool { return p.Name == name }); i >= 0 {
			a.identify(ctx, i)
		}
	}
}

// IdentifyAll is Identify of every program, also of those that no runtime executes since another
// directory has one with their name.
func (a All) IdentifyAll(ctx context.Context) {
	for i := range a {
		a.identify(ctx, i)
	}
}

func (a All) identify(ctx context.Context, i int) {
	if a[i].Suite != "" {
		return
	}
	known := func(other Program) bool { return other.Suite != "" && os.SameFile(other.info, a[i].info) }
	if same := slices.IndexFunc(a, known); same >= 0 {
		a[i].Suite, a[i].Version = a[same].Suite, a[same].Version
		return
	}
	a[i].Suite = suiteOf(a[i].Path)
	a[i].Version = a[i].ask(ctx)
}

// IsOurs says whether the file at path is Trestle's plugins, of any version and with any name.
func IsOurs(path string) bool { return suiteOf(path) == Trestle }

// suiteOf goes by the path of the main package, which Go's linker writes into each program.
func suiteOf(path string) Suite {
	info, err := buildinfo.ReadFile(path)
	switch {
	case err != nil:
		return Other
	case info.Path == "github.com/trestle-cni/trestle/plugins":
		return Trestle
	case strings.HasPrefix(info.Path, "github.com/containernetworking/plugins/"):
		return Reference
	}
	return Other
}

// banner is the line by which a plugin names its version: "CNI bridge plugin v1.9.1", or
// "CNI bridge plugin version unknown" of a build that was told none. It need not be the first: a
// program that is built to count coverage warns before that.
var banner = regexp.MustCompile(`(?m)^CNI \S+ plugin (?:v(\d\S*)|version (\S+))\s*$`)

// versionIn is the version that a plugin's output names; "" if it names none.
func versionIn(output []byte) string {
	found := banner.FindSubmatch(output)
	if found == nil {
		return ""
	}
	return strings.TrimPrefix(string(slices.Concat(found[1], found[2])), "v")
}

// ask runs the program without CNI_COMMAND, so that it only prints its version.
func (p Program) ask(ctx context.Context) string {
	if p.Suite == Other || !p.Executable {
		return ""
	}
	cmd := exec.CommandContext(ctx, p.Path)
	cmd.Env = []string{}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_ = cmd.Run() // its output counts, not its exit status
	return versionIn(stderr.Bytes())
}

// Status runs the plugin's STATUS, which tells whether an ADD could succeed, and returns the
// plugin's error. path has the directories of the plugins that it delegates to. The version is
// always 1.1.0, the first with STATUS, whatever the list has.
func (p Program) Status(ctx context.Context, network string, config []byte, path []string) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(config, &keys); err != nil {
		return err
	}
	name, err := json.Marshal(network)
	if err != nil {
		return err
	}
	keys["name"], keys["cniVersion"] = name, json.RawMessage(`"1.1.0"`)
	if config, err = json.Marshal(keys); err != nil {
		return err
	}
	var stderr bytes.Buffer
	args := &invoke.Args{Command: "STATUS", Path: strings.Join(path, string(os.PathListSeparator))}
	_, err = (&invoke.RawExec{Stderr: &stderr}).ExecPlugin(ctx, p.Path, config, args.AsEnv())
	return err
}

// Versions are the versions of the CNI spec that the plugin supports.
func (p Program) Versions(ctx context.Context) ([]string, error) {
	info, err := invoke.GetVersionInfo(ctx, p.Path, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: VERSION: %w", p.Path, err)
	}
	return info.SupportedVersions(), nil
}
