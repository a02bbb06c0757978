package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/version"
)

// Command is the value of CNI_COMMAND.
type Command string

// The commands of spec 1.1.0.
const (
	Add     Command = "ADD"
	Del     Command = "DEL"
	Check   Command = "CHECK"
	GC      Command = "GC"
	Status  Command = "STATUS"
	Version Command = "VERSION"
)

// sinceVersion is the first spec version that has the command; commands that always
// existed are absent.
var sinceVersion = map[Command]string{Check: "0.4.0", GC: "1.1.0", Status: "1.1.0"}

// Request is one call of a plugin, checked: the names are safe in paths, and the version is
// a supported one that has the command.
type Request struct {
	Command Command
	Owner   Owner  // GC and STATUS: only Network is set
	NetNS   string // CNI_NETNS; on DEL it may be empty or lead nowhere
	// Args is CNI_ARGS, without entries that are not of the form KEY=VALUE.
	Args map[string]string
	// Path is CNI_PATH, split: the directories of the plugins.
	Path []string
	// Version is the cniVersion of the configuration; answers are in it.
	Version string
	// Stdin is the whole configuration as it was read.
	Stdin []byte
	// Combined says that the program which serves the request has all of our plugins: if the
	// configuration names one of them as its IPAM plugin, it is called and not executed.
	Combined bool

	// valid is GC's list after the first call of Valid, and config is Stdin without that
	// list, so that not every Decode parses a list of a thousand attachments.
	valid  *Valid
	config []byte

	argsErr    error // what is wrong with CNI_ARGS
	netNSUnset bool  // CNI_NETNS was empty
}

// Decode unmarshals the configuration into v; the error has code 6. Keys match without
// regard to case, and unknown keys are ignored.
func (r *Request) Decode(v any) error {
	config := r.config
	if config == nil {
		config = r.Stdin
	}
	err := Unmarshal(config, v)
	var wrong *valueError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong) && wrong.field != "":
		return DecodeErrorf("%w", err)
	}
	return DecodeErrorf("network configuration: %w", err)
}

// readRequest reads the call. Request.Version is set even beside an error, which is
// answered in that version.
func readRequest(getenv func(string) string, stdin io.Reader) (*Request, error) {
	r := &Request{Command: Command(getenv("CNI_COMMAND")), Version: newestVersion()}
	var config bytes.Buffer
	config.Grow(8 << 10) // enough for nearly all, which are then read by one system call
	if _, err := config.ReadFrom(stdin); err != nil {
		return r, IOErrorf("read network configuration from standard input: %w", err)
	}
	r.Stdin = config.Bytes()
	var head struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
	}
	decodeErr := r.Decode(&head)
	if decodeErr != nil && head.CNIVersion == "" {
		head.CNIVersion = versionInBroken(r.Stdin)
	}
	switch {
	case head.CNIVersion != "":
		r.Version = head.CNIVersion
	case decodeErr == nil && r.Command != Version:
		r.Version = "0.1.0" // what the reference library assumes if there is none
	}
	if err := r.readEnvironment(getenv); err != nil {
		return r, err
	}
	if r.Command == Version {
		return r, nil // VERSION is answered whatever the configuration says
	}
	if decodeErr != nil {
		return r, decodeErr
	}
	r.Owner.Network = head.Name
	return r, r.checkHead()
}

// NewGC is the Request of a GC, for a program that calls the plugins itself. path is
// CNI_PATH.
func NewGC(config []byte, path []string) (*Request, error) {
	environment := map[string]string{"CNI_COMMAND": string(GC), "CNI_PATH": strings.Join(path, string(filepath.ListSeparator))}
	r, err := readRequest(func(key string) string { return environment[key] }, bytes.NewReader(config))
	if err != nil {
		return nil, err
	}
	r.Combined = true
	return r, nil
}

func newestVersion() string {
	all := version.All.SupportedVersions()
	return all[len(all)-1]
}

// versionInBroken finds the cniVersion of a configuration that is not valid JSON, if it
// stands before the mistake. It serves only to answer the error in that version.
func versionInBroken(data []byte) string {
	tokens := json.NewDecoder(bytes.NewReader(data))
	depth, key := 0, ""
	for {
		token, err := tokens.Token()
		if err != nil {
			return ""
		}
		text, isText := token.(string)
		switch delim, isDelim := token.(json.Delim); {
		case isDelim && (delim == '{' || delim == '['):
			depth, key = depth+1, ""
		case isDelim:
			depth, key = depth-1, ""
		case depth == 1 && isText && key == "":
			key = text
		case depth == 1 && isText && strings.EqualFold(key, "cniVersion"):
			return text
		case depth == 1:
			key = ""
		}
	}
}

// readEnvironment reads and checks the variables that the command needs.
func (r *Request) readEnvironment(getenv func(string) string) error {
	switch r.Command {
	case Add, Del, Check, GC, Status, Version:
	default:
		return EnvironmentErrorf("CNI_COMMAND: unknown command %q; it is one of ADD, DEL, CHECK, GC, STATUS, VERSION", r.Command)
	}
	r.Path = filepath.SplitList(getenv("CNI_PATH"))
	if r.Command != Add && r.Command != Del && r.Command != Check {
		return nil
	}
	r.Owner.ContainerID = getenv("CNI_CONTAINERID")
	r.Owner.IfName = getenv("CNI_IFNAME")
	r.NetNS = getenv("CNI_NETNS")
	r.netNSUnset = r.NetNS == ""
	if err := r.checkPresent(); err != nil {
		return err
	}
	if problem := nameProblem(r.Owner.ContainerID); problem != "" {
		return EnvironmentErrorf("CNI_CONTAINERID: %q is not a container id: %s", r.Owner.ContainerID, problem)
	}
	if err := r.checkIfName(); err != nil {
		return err
	}
	if err := r.checkText(); err != nil {
		return err
	}
	r.Args, r.argsErr = parseArgs(getenv("CNI_ARGS"))
	return nil
}

func (r *Request) checkPresent() error {
	var missing []string
	if r.Owner.ContainerID == "" {
		missing = append(missing, "CNI_CONTAINERID")
	}
	if r.NetNS == "" && r.Command != Del {
		missing = append(missing, "CNI_NETNS")
	}
	if r.Owner.IfName == "" {
		missing = append(missing, "CNI_IFNAME")
	}
	if len(missing) > 0 {
		return EnvironmentErrorf("%s: not set, and %s needs it", strings.Join(missing, ", "), r.Command)
	}
	return nil
}

// checkHead checks version and network name.
func (r *Request) checkHead() error {
	if !slices.Contains(version.All.SupportedVersions(), r.Version) {
		return versionErrorf("cniVersion: %q is not supported; use one of %s", r.Version, supportedVersions())
	}
	if since := sinceVersion[r.Command]; since != "" {
		// parsing cannot fail: both are versions of the list above
		if ok, err := version.GreaterThanOrEqualTo(r.Version, since); err != nil || !ok {
			return versionErrorf("cniVersion: %q has no %s; use %s or later", r.Version, r.Command, since)
		}
	}
	if r.Owner.Network == "" {
		return ConfigErrorf("name: missing; every network needs a name of its own")
	}
	if problem := nameProblem(r.Owner.Network); problem != "" {
		return ConfigErrorf("name: %q is not a network name: %s", r.Owner.Network, problem)
	}
	return nil
}

// nameProblem says what is wrong with a container id or network name; "" if nothing is. It
// is the spec's rule, ^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$, without the cost of compiling a regular
// expression at start-up.
func nameProblem(s string) string {
	const longest = 255 // NAME_MAX, since directories and files are named after it
	other := func(c rune) bool {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		return !letter && c != '_' && c != '.' && c != '-'
	}
	switch {
	case len(s) > longest:
		return fmt.Sprintf("it has %d bytes, and %d are the most", len(s), longest)
	case s == "" || strings.ContainsRune("_.-", rune(s[0])) || strings.ContainsFunc(s, other):
		return "it begins with a letter or digit and goes on with those, '_', '.' or '-'"
	}
	return ""
}

// checkIfName refuses what the kernel refuses and, on ADD, quotes and backslashes: the name
// becomes part of comments in nftables and iptables, where a quote ends the comment, and a
// saved ruleset could not be loaded. An attachment with such a name can still be deleted.
func (r *Request) checkIfName() error {
	s, check := r.Owner.IfName, checkIfNameText
	if r.Command == Add {
		check = CheckIfName
	}
	if err := check(s); err != nil {
		return EnvironmentErrorf("CNI_IFNAME: %w", err)
	}
	if r.Command == Add && strings.ContainsAny(s, `"'\`) {
		return EnvironmentErrorf("CNI_IFNAME: %q: a quote or backslash cannot stand in the comments of firewall rules; choose a name without", s)
	}
	return nil
}

// checkText refuses an ADD whose names are not UTF-8: results and records are JSON, which
// would change them, and nobody would find the attachment again.
func (r *Request) checkText() error {
	if r.Command != Add {
		return nil
	}
	for variable, value := range map[string]string{"CNI_IFNAME": r.Owner.IfName, "CNI_NETNS": r.NetNS} {
		if !utf8.ValidString(value) {
			return EnvironmentErrorf("%s: %q is not UTF-8, and no result could hold it; choose another name", variable, value)
		}
	}
	return nil
}

// parseArgs reads CNI_ARGS, "K=V;K2=V2". Unknown keys are no error. If there is an error,
// the map has what could be read.
func parseArgs(s string) (map[string]string, error) {
	args := map[string]string{}
	var failed error
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			failed = EnvironmentErrorf("CNI_ARGS: %q is not of the form KEY=VALUE", pair)
			continue
		}
		args[key] = value
	}
	return args, failed
}

func supportedVersions() string { return strings.Join(version.All.SupportedVersions(), ", ") }

// inUse is one entry of GC's list of attachments.
type inUse struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Valid is the list of attachments that GC must keep. If the runtime has sent no list (Known
// is false), GC may remove only what is provably dead.
type Valid struct {
	Known  bool
	owners map[Owner]bool
	labels map[string]bool
}

// IsEmpty says whether the runtime has sent a list, and it is empty.
func (v Valid) IsEmpty() bool { return v.Known && len(v.owners) == 0 }

// Keeps says whether the list names the owner.
func (v Valid) Keeps(o Owner) bool { return v.owners[o] }

// Owners are the owners that the list names, in no order.
func (v Valid) Owners() []Owner { return slices.Collect(maps.Keys(v.owners)) }

// KeepsContainer says whether the list names any attachment of the container.
func (v Valid) KeepsContainer(id string) bool {
	for o := range v.owners {
		if o.ContainerID == id {
			return true
		}
	}
	return false
}

// KeepsLabel says whether the list names the owner with that label.
func (v Valid) KeepsLabel(label string) bool { return v.labels[label] }

// The names of GC's list: that of CNI spec 1.1.0, "GC", and that of libcni and of early
// drafts of the spec.
const (
	validBySpec   = "cni.dev/valid-attachments"
	validByLibcni = "cni.dev/attachments"
)

// Valid reads GC's list, under both of its names, and removes it from what Decode reads.
func (r *Request) Valid() (Valid, error) {
	if r.valid != nil {
		return *r.valid, nil
	}
	var keys map[string]json.RawMessage
	if err := r.Decode(&keys); err != nil {
		return Valid{}, err
	}
	valid := Valid{owners: map[Owner]bool{}, labels: map[string]bool{}}
	for key, value := range keys {
		if !strings.EqualFold(key, validBySpec) && !strings.EqualFold(key, validByLibcni) {
			continue
		}
		delete(keys, key)
		var list *[]inUse
		if err := Unmarshal(value, &list); err != nil {
			return Valid{}, DecodeErrorf("network configuration: %w", below(key, err))
		}
		if list == nil {
			continue
		}
		if err := checkNamed(key, *list); err != nil {
			return Valid{}, err
		}
		valid.add(r.Owner.Network, *list)
	}
	config, err := json.Marshal(keys)
	if err != nil {
		return Valid{}, DecodeErrorf("network configuration: %w", err)
	}
	r.valid, r.config = &valid, config
	return valid, nil
}

// checkNamed refuses an entry without a container or interface: it may mean any attachment,
// which is in use and must not be deleted.
func checkNamed(key string, list []inUse) error {
	for i, a := range list {
		var field string
		switch {
		case a.ContainerID == "":
			field = "containerID"
		case a.IfName == "":
			field = "ifname"
		default:
			continue
		}
		return DecodeErrorf("network configuration: %s[%d].%s: missing; name both container and interface, or GC removes nothing", key, i, field)
	}
	return nil
}

func (v *Valid) add(network string, list []inUse) {
	v.Known = true
	for _, a := range list {
		owner := Owner{network, a.ContainerID, a.IfName}
		v.owners[owner] = true
		v.labels[owner.String()] = true
	}
}

// String names the call for a log line.
func (r *Request) String() string { return fmt.Sprintf("%s %s", r.Command, r.Owner) }
