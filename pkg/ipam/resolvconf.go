package ipam

import (
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// ReadResolvConf reads a file in the format of resolv.conf(5). The error has code 7, since the
// configuration names the file.
func ReadResolvConf(path string) (types.DNS, error) {
	if path == os.DevNull { // as some write "no name servers"
		return types.DNS{}, nil
	}
	data, err := rawfile.Read(path)
	if err != nil {
		return types.DNS{}, cni.ConfigErrorf("ipam.resolvConf: %w; name a file like /etc/resolv.conf, or leave the key out", err)
	}
	return parseResolvConf(string(data)), nil
}

func parseResolvConf(text string) types.DNS {
	var dns types.DNS
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, fields[1])
		case "domain":
			dns.Domain = fields[1]
		case "search":
			dns.Search = append(dns.Search, fields[1:]...)
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	return dns
}
