package container

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// The host's files. systemd's has the servers that its stub at 127.0.0.53 asks; the stub itself
// cannot be reached from another network namespace.
const (
	hostResolvConf    = "/etc/resolv.conf"
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
)

// ResolvConf writes the container's /etc/resolv.conf, and returns the file's path, or "" if the
// host's will do. Close removes the file.
func (s *Container) ResolvConf(dns types.DNS) (path string, err error) {
	host, reachable := hostServers()
	nothing := len(dns.Nameservers) == 0 && len(dns.Search) == 0 && dns.Domain == "" && len(dns.Options) == 0
	if nothing && reachable {
		return "", nil
	}
	if len(dns.Nameservers) == 0 {
		dns.Nameservers = host
	}
	if err := os.MkdirAll(filepath.Dir(s.resolvConf()), 0o755); err != nil {
		return "", err
	}
	return s.resolvConf(), rawfile.Write(s.resolvConf(), []byte(text(dns)), 0o644)
}

func (s *Container) resolvConf() string {
	return filepath.Join(record.DefaultDir, "resolv.conf", s.Name)
}

// text is dns in the format of resolv.conf(5).
func text(dns types.DNS) string {
	var b strings.Builder
	for _, server := range dns.Nameservers {
		b.WriteString("nameserver " + server + "\n")
	}
	search := dns.Search
	if len(search) == 0 && dns.Domain != "" {
		search = []string{dns.Domain}
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	if len(dns.Options) > 0 {
		b.WriteString("options " + strings.Join(dns.Options, " ") + "\n")
	}
	return b.String()
}

// hostServers are the host's name servers that a container can reach. reachable says that the
// host's own file has them.
func hostServers() (servers []string, reachable bool) {
	own := serversIn(hostResolvConf)
	loopback := func(server string) bool {
		address, err := netip.ParseAddr(server)
		return err == nil && address.IsLoopback()
	}
	if others := slices.DeleteFunc(slices.Clone(own), loopback); len(others) > 0 || len(own) == 0 {
		return others, true
	}
	if behind := serversIn(systemdResolvConf); len(behind) > 0 {
		return behind, false
	}
	return own, true // no others are known
}

// serversIn are the name servers in a file; none if it is missing.
func serversIn(file string) []string {
	data, err := rawfile.Read(file)
	if err != nil {
		return nil
	}
	var servers []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	}
	return servers
}
