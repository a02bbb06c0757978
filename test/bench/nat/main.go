// Command nat measures the portmap plugin alone: ADD and DEL of 1, 10 and 100
// mappings on a host where nobody else has any, and on one where a thousand
// others have five each, beside the reference plugin with each backend.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/plugins/translator"
	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

func main() { os.Exit(host.Program(bench)) }

// each is how many mappings every resident has.
const each = 5

func bench(t host.T) {
	rounds := flag.Int("rounds", 20, "how often each variant is timed")
	residents := flag.Int("residents", 1000, "how many others have 5 mappings each")
	peers := flag.Int("peer-residents", 100, "how many they are for the reference plugin, which takes minutes for a thousand")
	flag.Parse()
	for _, ports := range []int{1, 10, 100} {
		section := measure.Section{
			Title: fmt.Sprintf("portmap, %d ports", ports), Operations: []string{"ADD", "DEL"},
			Setup: func() []measure.Variant {
				return []measure.Variant{
					ours(t, ports, 0), ours(t, ports, *residents),
					reference(t, "nftables", ports, 0), reference(t, "nftables", ports, *peers),
					reference(t, "iptables", ports, 0), reference(t, "iptables", ports, *peers),
				}
			},
		}
		if err := section.Run(*rounds, os.Stdout); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// site is a host with a bridge and a container on it.
type site struct {
	*host.Host
	container *host.Container
	plugin    string
	keys      string // of the configuration
}

func newSite(t host.T, reference bool, keys string) site {
	h := host.New(t)
	s := site{Host: h, container: h.Container("c1"), plugin: filepath.Join(h.Dirs().Trestle, "portmap"), keys: keys}
	if reference {
		s.plugin = filepath.Join(h.Dirs().Reference, "portmap")
	}
	h.MustRun("ip", "link", "add", "br1", "type", "bridge")
	h.MustRun("ip", "link", "set", "br1", "up")
	h.MustRun("ip", "address", "add", "10.1.0.1/16", "dev", "br1")
	return s
}

func ours(t host.T, ports, residents int) measure.Variant {
	s := newSite(t, false, "")
	if err := s.Do(func() error { return mapPorts(residents) }); err != nil {
		t.Fatalf("make residents: %v", err)
	}
	return measure.Variant{Name: fmt.Sprintf("trestle beside %d", residents), Round: func() ([]time.Duration, error) { return s.round(ports) }}
}

// mapPorts maps the residents' ports without the cost of a process for each.
func mapPorts(residents int) error {
	conn, h := translator.Open()
	defer conn.Close()
	for i := range residents {
		address := netip.AddrFrom4([4]byte{10, 1, byte(1 + i/250), byte(1 + i%250)})
		p := nat.Ports{Subnets: []netip.Prefix{netip.PrefixFrom(address, 16)}, Bridge: "br1", PortOptions: nat.PortOptions{SNAT: true}}
		for port := range each {
			p.Mappings = append(p.Mappings, nat.Mapping{
				Protocol:  nat.TCP,
				Host:      netip.AddrPortFrom(netip.IPv4Unspecified(), residentPort(i, port)),
				Container: netip.AddrPortFrom(address, uint16(80+port)),
			})
		}
		var undo cni.Undo
		owner := cni.Owner{Network: "bench", ContainerID: fmt.Sprintf("r%d", i), IfName: "eth0"}
		if err := h.Add(nat.Attachment{Owner: owner, Ports: &p, PortsBackend: nat.NFTables}, &undo); err != nil {
			return err
		}
	}
	return nil
}

func residentPort(resident, port int) uint16 { return uint16(20000 + each*resident + port) }

func reference(t host.T, backend string, ports, residents int) measure.Variant {
	s := newSite(t, true, fmt.Sprintf(`, "backend": %q`, backend))
	for i := range residents {
		address := fmt.Sprintf("10.1.%d.%d", 1+i/250, 1+i%250)
		if _, err := s.call("ADD", fmt.Sprintf("r%d", i), address, mappings(int(residentPort(i, 0)), each)); err != nil {
			t.Fatalf("make residents: %v", err)
		}
	}
	return measure.Variant{Name: fmt.Sprintf("reference, %s, beside %d", backend, residents), Round: func() ([]time.Duration, error) { return s.round(ports) }}
}

func (s site) round(ports int) ([]time.Duration, error) {
	add, err := s.call("ADD", "c1", "10.1.200.1", mappings(8000, ports))
	if err != nil {
		return nil, err
	}
	time.Sleep(measure.Pause)
	del, err := s.call("DEL", "c1", "10.1.200.1", mappings(8000, ports))
	return []time.Duration{add, del}, err
}

func mappings(first, count int) string {
	var list []string
	for i := range count {
		list = append(list, fmt.Sprintf(`{"hostPort": %d, "containerPort": %d, "protocol": "tcp"}`, first+i, 80+i))
	}
	return strings.Join(list, ", ")
}

// call executes the plugin as a runtime does, and returns the time from before
// fork to after wait.
func (s site) call(verb, id, address, mappings string) (took time.Duration, err error) {
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "bench", "type": "portmap"%s, "runtimeConfig": {"portMappings": [%s]},
		"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": %q}], "ips": [{"address": "%s/16", "interface": 0}]}}`,
		s.keys, mappings, s.container.NetNS, address)
	env := append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+id, "CNI_NETNS="+s.container.NetNS, "CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(s.plugin))
	exec := invoke.RawExec{Stderr: os.Stderr}
	err = s.Do(func() error {
		began := time.Now()
		_, err := exec.ExecPlugin(context.Background(), s.plugin, []byte(config), env)
		took = time.Since(began)
		return err
	})
	return took, err
}
