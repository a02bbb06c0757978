package trestle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/doctor"
	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/test/host"
)

// patient is a host with the usual network, on which web lives, with a published port.
type patient struct {
	*host.Host
	t   *testing.T
	web *host.Container
	net *host.Network
	// plugins is where runtimes look for them.
	plugins string
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	h := host.NewRouting(t)
	h.MustRun("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")
	list, err := conflist.Files.ReadFile(conflist.Default)
	if err != nil {
		t.Fatal(err)
	}
	h.InstallNetwork(conflist.Default, string(list))
	p := &patient{Host: h, t: t, net: h.Network(string(list)), plugins: h.Dirs().Trestle}
	p.web = p.attach("web", 8080)
	return p
}

// attach makes a container on the usual network with this host port.
func (p *patient) attach(id string, port int) *host.Container {
	p.t.Helper()
	c := p.Container(id)
	rt := c.Attachment()
	rt.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}
	if _, err := p.net.Add(rt); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// network installs a list of one bridge, and more plugins, and gives it to a runtime.
func (p *patient) network(name, bridge, subnet, more string) *host.Network {
	p.t.Helper()
	list := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [{"type": "bridge", "bridge": %q, "isGateway": true, "ipam": {"type": "host-local",
		"ranges": [[{"subnet": %q}]]}}%s]}`, name, bridge, subnet, more)
	p.InstallNetwork("50-"+name+".conflist", list)
	return p.Network(list)
}

// mtuNetwork has packets of 1400 bytes.
func (p *patient) mtuNetwork() *host.Network {
	p.t.Helper()
	list := `{"cniVersion": "1.0.0", "name": "small", "plugins": [{"type": "bridge", "bridge": "br5", "isGateway": true, "mtu": 1400,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.63.0.0/24"}]]}}]}`
	p.InstallNetwork("50-small.conflist", list)
	return p.Network(list)
}

func (p *patient) add(n *host.Network, c *host.Container, ifName string) {
	p.t.Helper()
	rt := c.Attachment()
	rt.IfName = ifName
	if _, err := n.Add(rt); err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) sh(script string) {
	p.t.Helper()
	p.MustRun("sh", "-ec", script)
}

// examine is the doctor's answer; its exit status is 3 where that is not empty.
func (p *patient) examine(args ...string) []doctor.Finding {
	p.t.Helper()
	output := run(p.t, p.Host, append([]string{"doctor", "--json", "--plugins", p.plugins}, args...)...)
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(output.Stdout), &found); err != nil {
		p.t.Fatalf("doctor: exit status %d, %v in %s%s", output.Code, err, output.Stdout, output.Stderr)
	}
	ill := slices.ContainsFunc(found, func(f doctor.Finding) bool { return !f.Fixed })
	if want := map[bool]int{false: 0, true: 3}[ill]; output.Code != want {
		p.t.Errorf("got exit status %d with %+v, want %d; it said %s", output.Code, found, want, output.Stderr)
	}
	return found
}

// dockerRules are what Docker makes of FORWARD.
const dockerRules = `iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; iptables -P FORWARD DROP`

// TestDoctor brings about each fault on a host of its own. The doctor finds that, and
// nothing else but what the fault entails; --fix fixes it where that harms nobody.
func TestDoctor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault func(*patient)
		check string
		// words are in the subject, the text or the command.
		words []string
		fixed bool
		// besides are checks that find the same fault.
		besides []string
	}{
		{
			"a file that is no list", func(p *patient) { p.InstallNetwork("20-x.conflist", `{"name": `) },
			"network-list",
			[]string{"20-x.conflist", "no runtime accepts", "trestle validate /etc/cni/net.d/20-x.conflist"},
			false, nil,
		},
		{
			"a name that no runtime accepts", func(p *patient) {
				p.InstallNetwork("20-x.conflist", `{"cniVersion": "1.0.0", "name": "a b", "plugins": [{"type": "loopback"}]}`)
			},
			"network-list",
			[]string{"20-x.conflist", `"a b"`},
			false, nil,
		},
		{
			"two lists of one name", func(p *patient) {
				p.InstallNetwork("20-x.conflist", `{"cniVersion": "1.0.0", "name": "trestle", "plugins": [{"type": "loopback"}]}`)
			},
			"network-list",
			[]string{"20-x.conflist", "10-trestle.conflist", `"trestle"`},
			false, nil,
		},
		{
			"a version that nobody knows", func(p *patient) {
				p.InstallNetwork("20-x.conflist", `{"cniVersion": "1.9.0", "name": "x", "plugins": [{"type": "loopback"}]}`)
			},
			"network-list",
			[]string{"20-x.conflist", "1.9.0", "1.1.0"},
			false, nil,
		},
		{
			"a plugin that is missing", func(p *patient) {
				p.InstallNetwork("20-x.conflist", `{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "macvlan"}]}`)
			},
			"network-list",
			[]string{"macvlan", "20-x.conflist"},
			false, nil,
		},
		{
			"a reference plugin among ours", func(p *patient) {
				p.plugins = "/opt/mixed"
				p.sh("mkdir /opt/mixed; cp -l " + p.Dirs().Trestle + "/* /opt/mixed/ 2>&- || cp " + p.Dirs().Trestle + "/* /opt/mixed/; rm /opt/mixed/portmap; cp " + p.Reference("portmap") + " /opt/mixed/portmap")
			},
			"plugins",
			[]string{"/opt/mixed/portmap", "two suites"},
			false, nil,
		},
		{
			"a plugin that is no program", func(p *patient) {
				p.plugins = "/opt/mixed"
				p.sh("mkdir /opt/mixed; cp " + p.Dirs().Trestle + "/* /opt/mixed/; chmod a-x /opt/mixed/portmap")
			},
			"plugins",
			[]string{"/opt/mixed/portmap", "not executable", "chmod 755"},
			true, nil,
		},
		{
			"a directory that everybody may write to", func(p *patient) { p.sh("chmod 777 /etc/cni/net.d") },
			"permissions",
			[]string{"/etc/cni/net.d", "0777", "chmod 0755"},
			true, nil,
		},
		{
			"a list that is somebody's", func(p *patient) { p.sh("chown 1234 /etc/cni/net.d/10-trestle.conflist") },
			"permissions",
			[]string{"10-trestle.conflist", "1234", "chown root"},
			false, nil,
		},
		{
			"a kernel without what a network needs", func(p *patient) {
				p.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
				p.network("six", "br6", "fd66::/64", "")
			},
			"status",
			[]string{"network six", "IPv6", "bridge"},
			false, nil,
		},
		{
			"a pool without an address", func(p *patient) { p.add(p.network("small", "br1", "10.60.0.0/30", ""), p.Container("c"), "eth0") },
			"pool",
			[]string{"network small", "all 1 addresses", "trestle ip ls small"},
			false, nil,
		},
		{
			"a pool without an address, which STATUS reports", func(p *patient) {
				list := `{"cniVersion": "1.0.0", "name": "small", "plugins": [{"type": "bridge", "bridge": "br1", "isGateway": true,
					"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/30"}]], "statusWhenFull": "unavailable"}}]}`
				p.InstallNetwork("50-small.conflist", list)
				p.add(p.Network(list), p.Container("c"), "eth0")
			},
			"pool",
			[]string{"network small", "all 1 addresses", "STATUS tells the runtime so", "trestle ip ls small"},
			false, nil,
		},
		{
			"a pool with one address left", func(p *patient) {
				p.network("small", "br1", "10.60.0.0/28", "")
				p.sh(`mkdir -p /var/lib/cni/networks/small; for i in 2 3 4 5 6 7 8 9 10 11 12 13; do printf "c$i\r\neth0" >/var/lib/cni/networks/small/10.60.0.$i; done`)
			},
			"pool",
			[]string{"network small", "12 of the 13"},
			false, nil,
		},
		{
			"a route to a part of the subnet", func(p *patient) { p.sh("ip route add 10.22.64.0/24 via 192.0.2.1") },
			"overlap",
			[]string{"network trestle", "10.22.0.0/16", "10.22.64.0/24", host.Uplink},
			false, nil,
		},
		{
			"two networks with one subnet", func(p *patient) { p.network("twin", "br2", "10.22.8.0/24", "") },
			"shared",
			[]string{"network twin", "10.22.0.0/16"},
			false,
			[]string{"status"},
		},
		{
			"two networks on one bridge", func(p *patient) { p.network("twin", "trestle0", "10.99.8.0/24", "") },
			"shared",
			[]string{"network twin", "trestle0"},
			false, nil,
		},
		{
			"an uplink with a smaller MTU", func(p *patient) { p.sh("ip link set " + host.Uplink + " mtu 1400") },
			"mtu",
			[]string{"network trestle", "1500", "1400", host.Uplink},
			false, nil,
		},
		{
			"a port with a smaller MTU", func(p *patient) {
				p.attach("second", 8081)
				p.sh("ip link set $(ls /sys/class/net/trestle0/brif | head -n 1) mtu 1300")
			},
			"mtu",
			[]string{"network trestle", "1300", "1500", "veth"},
			false, nil,
		},
		{
			"a bridge with another MTU than its network", func(p *patient) {
				p.add(p.mtuNetwork(), p.Container("c"), "eth0")
				p.sh("ip link set br5 mtu 1280")
			},
			"mtu",
			[]string{"network small", "says MTU 1400", "1280"},
			false, nil,
		},
		{
			"IPv4 is not forwarded", func(p *patient) { p.sh("sysctl -qw net.ipv4.ip_forward=0") },
			"forwarding",
			[]string{"IPv4", "sysctl -w net/ipv4/ip_forward=1"},
			true, nil,
		},
		{
			"IPv6 is not forwarded", func(p *patient) { p.sh("sysctl -qw net.ipv6.conf.all.forwarding=0") },
			"forwarding",
			[]string{"IPv6", "sysctl -w net/ipv6/conf/all/forwarding=1"},
			true, nil,
		},
		{
			"FORWARD drops", func(p *patient) { p.sh("iptables -P FORWARD DROP") },
			"forward-drops",
			[]string{"network trestle", "policy drop", "ip filter", "-I FORWARD -i trestle0 -j ACCEPT"},
			false, nil,
		},
		{
			"FORWARD drops answers", func(p *patient) { p.sh("ip6tables -P FORWARD DROP; ip6tables -A FORWARD -i trestle0 -j ACCEPT") },
			"forward-drops",
			[]string{"answers", "ip6 filter", "ip6tables"},
			false, nil,
		},
		{
			"Docker's FORWARD", func(p *patient) { p.sh(dockerRules) },
			"forward-drops",
			[]string{"-I DOCKER-USER -i trestle0"},
			false, nil,
		},
		{
			"ufw", func(p *patient) {
				p.sh("iptables -N ufw-before-forward; iptables -A FORWARD -j ufw-before-forward; iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A FORWARD -j REJECT")
			},
			"forward-drops",
			[]string{"REJECT", "ufw route allow in on trestle0"},
			false, nil,
		},
		{
			"a table of nftables that drops", func(p *patient) {
				p.sh(`nft 'table inet wall { set inner { type ifname; elements = { "lan0" }; }; chain forward { type filter hook forward priority 10; policy drop; ct state established,related accept; iifname @inner accept; }; }'`)
			},
			"forward-drops",
			[]string{"inet wall", "nft insert rule inet wall forward"},
			false, nil,
		},
		{
			"FORWARD drops, and the network has the firewall plugin", func(p *patient) {
				p.add(p.network("walled", "br3", "10.61.0.0/24", `, {"type": "firewall"}`), p.Container("c"), "eth0")
				// the plugin let it through; somebody has flushed the table since
				p.sh("iptables -F; iptables -X; iptables -A FORWARD -i trestle0 -j ACCEPT; iptables -A FORWARD -o trestle0 -j ACCEPT; iptables -P FORWARD DROP")
			},
			"forward-drops",
			[]string{"network walled", "trestle restore"},
			true, nil,
		},
		{
			"neighbours are filtered", func(p *patient) {
				p.sh("iptables -A FORWARD -i trestle0 ! -o trestle0 -j ACCEPT; iptables -A FORWARD ! -i trestle0 -o trestle0 -j ACCEPT; iptables -P FORWARD DROP; sysctl -qw net.bridge.bridge-nf-call-iptables=1")
			},
			"br-netfilter",
			[]string{"network trestle", "bridge-nf-call-iptables"},
			false, nil,
		},
		{
			"services do not see neighbours", func(p *patient) {
				p.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0; iptables -t nat -N KUBE-SERVICES; iptables -t nat -A PREROUTING -j KUBE-SERVICES")
			},
			"br-netfilter",
			[]string{"kube-proxy", "net/bridge/bridge-nf-call-iptables=1"},
			true, nil,
		},
		{
			"a container with two ways", func(p *patient) {
				p.add(p.network("two", "br4", "10.62.0.0/24", ""), p.web, "eth1")
				p.sh("sysctl -qw net.ipv4.conf.br4.rp_filter=1")
			},
			"rp-filter",
			[]string{"network two", "web", "trestle", "rp_filter=2"},
			false, nil,
		},
		{
			"a host with two ways", func(p *patient) {
				p.sh("ip link add up1 type veth peer name far1; ip address add 198.51.100.2/24 dev up1; ip link set far1 up; ip link set up1 up; ip route add default via 198.51.100.1 metric 50")
				p.sh("sysctl -qw net.ipv4.conf.up1.rp_filter=1")
			},
			"rp-filter",
			[]string{"link up1", "rp_filter=2"},
			false, nil,
		},
		{
			"advertisements are ignored", func(p *patient) {
				p.sh("sysctl -qw net.ipv6.conf.uplink0.accept_ra=1; ip -6 route add default via 2001:db8::1 proto ra metric 90")
			},
			"router-advertisements",
			[]string{"link uplink0", "accept_ra=2"},
			true, nil,
		},
		{
			"a container's advertisements are believed", func(p *patient) { p.sh("sysctl -qw net.ipv6.conf.trestle0.accept_ra=2") },
			"router-advertisements",
			[]string{"network trestle", "accept_ra=0"},
			true, nil,
		},
		{
			"the ruleset was flushed", func(p *patient) { p.sh("nft flush ruleset") },
			"rules-missing",
			[]string{"its masquerade", "published ports of 1 container", "trestle restore"},
			true, nil,
		},
		{
			"a policy was flushed", func(p *patient) {
				p.add(p.network("walled", "br3", "10.61.0.0/24", `, {"type": "firewall", "ingressPolicy": "same-bridge"}`), p.Container("c"), "eth0")
				p.sh("nft flush set inet trestle bridges; nft flush set inet trestle same_bridge")
			},
			"rules-missing",
			[]string{"network walled", "its policy"},
			true, nil,
		},
		{
			"somebody else maps the port", func(p *patient) {
				p.sh("iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.77:80")
			},
			"shadowed-port",
			[]string{"tcp/8080", "web", "192.0.2.77", "-t nat -D PREROUTING"},
			false, nil,
		},
		{
			"a table of nftables maps the port", func(p *patient) {
				p.sh(`nft 'table ip mine { chain pre { type nat hook prerouting priority -110; tcp dport { 80, 8080 } dnat to 192.0.2.77:80; }; }'`)
			},
			"shadowed-port",
			[]string{"tcp/8080", "web", "ip mine"},
			false, nil,
		},
		{
			"kube-proxy in mode ipvs", func(p *patient) { p.sh("ip link add kube-ipvs0 type bridge") },
			"ipvs",
			[]string{"kube-ipvs0", "IPVS", `"backend": "iptables"`},
			false, nil,
		},
		{
			"what the reference plugins left", func(p *patient) { p.leaveReference("iptables") },
			"reference-rules",
			[]string{"container old", "iptables", "CNI-"},
			false, nil,
		},
		{
			"what the reference plugins left in nftables", func(p *patient) { p.leaveReference("nftables") },
			"reference-rules",
			[]string{"container old", "cni_"},
			false, nil,
		},
		{
			"a dead container", func(p *patient) {
				p.attach("lost", 8081).Remove()
				p.awaitVeths(1)
				awaitDead(p.t, p.Host)
			},
			"dead",
			[]string{"network trestle", "lost", "2 addresses", "trestle gc"},
			true, nil,
		},
		{
			"a dead container of a network that has no list any more", func(p *patient) {
				n := p.network("former", "br7", "10.67.0.0/24", "")
				c := p.Container("lost")
				p.add(n, c, "eth0")
				p.sh("rm /etc/cni/net.d/50-former.conflist")
				c.Remove()
				p.awaitVeths(1)
				awaitDead(p.t, p.Host)
			},
			"dead",
			[]string{"network former", "lost", "trestle gc"},
			true, nil,
		},
		{
			"a link without a live owner", func(p *patient) {
				p.sh("rm -r /var/lib/cni/results /run/trestle/translations /var/lib/cni/networks/trestle; nft delete table inet trestle")
			},
			"leaked-link",
			[]string{"trestle/web/eth0", "ip link del veth"},
			false, nil,
		},
		{
			"a port that was taken off its bridge", func(p *patient) { p.sh("ip link set $(ls /sys/class/net/trestle0/brif) nomaster") },
			"leaked-link",
			[]string{"trestle/web/eth0", "no bridge"},
			false, nil,
		},
		{
			"a truncated lease", func(p *patient) { p.sh(">/var/lib/cni/networks/trestle/10.22.0.9") },
			"leases",
			[]string{"10.22.0.9", "trestle ip repair trestle"},
			true, nil,
		},
		{
			"an element without an owner", func(p *patient) {
				p.sh(`nft add element inet trestle host_ports4 '{ tcp . 9999 comment "trestle/gone/eth0" : 10.22.0.77 . 80 }'`)
			},
			"elements",
			[]string{"trestle/gone/eth0"},
			true, nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.fault(p)
			before := p.Dump()
			found := p.examine()
			p.AssertUnchanged(before)
			expect(t, found, test.check, test.besides, test.words)
			if fixable := slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Fixable && f.Check == test.check }); fixable != test.fixed {
				t.Fatalf("fixable: got %v, want %v: %+v", fixable, test.fixed, found)
			}
			if !test.fixed {
				return
			}
			for _, f := range p.examine("--fix") {
				if f.Check == test.check && !f.Fixed {
					t.Errorf("got %+v, want it fixed", f)
				}
			}
			if left := p.examine(); len(left) > 0 {
				t.Errorf("after --fix: got %+v, want nothing", left)
			}
		})
	}
}

// expect fails the test unless there is a finding of the check, with all words, and no
// other check has found anything.
func expect(t *testing.T, found []doctor.Finding, check string, besides, words []string) {
	t.Helper()
	var named bool
	for _, f := range found {
		if f.Check != check {
			if !slices.Contains(besides, f.Check) {
				t.Errorf("found besides: %+v", f)
			}
			continue
		}
		text := strings.Join([]string{f.Subject, f.Text, f.Command}, "\n")
		named = named || !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
	}
	if !named {
		t.Errorf("got %+v, want %s with %q", found, check, words)
	}
}

// leaveReference has the reference plugins attach a container, and forgets it.
func (p *patient) leaveReference(backend string) {
	p.t.Helper()
	n := p.Network(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "former", "plugins": [{"type": "bridge", "bridge": "br9", "isGateway": true, "ipMasq": true,
		"ipMasqBackend": %q, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.70.0.0/24"}]]}},
		{"type": "portmap", "backend": %q, "capabilities": {"portMappings": true}}]}`, backend, backend))
	n.Path = []string{p.Dirs().Reference}
	c := p.Container("old")
	rt := c.Attachment()
	rt.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": 7000, "containerPort": 80, "protocol": "tcp"}}
	if _, err := n.Add(rt); err != nil {
		p.t.Fatal(err)
	}
	p.sh("rm -r /var/lib/cni/results/former-old-eth0 /var/lib/cni/networks/former; ip link del br9")
	c.Remove()
	p.awaitVeths(1)
}

// awaitVeths waits for the kernel to have done away with a removed container's.
func (p *patient) awaitVeths(count int) {
	p.t.Helper()
	await(p.t, "its link is gone", func() bool { return strings.Count(p.MustRun("ls", "/sys/class/net"), "veth") == count })
}

// TestDoctorHealthy: nothing is found on a host on which all is well, with containers on
// networks of all sorts and other programs' rules beside.
func TestDoctorHealthy(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.add(p.network("walled", "br3", "10.61.0.0/24", `, {"type": "firewall", "ingressPolicy": "published"}`), p.Container("c1"), "eth0")
	p.add(p.network("six", "br6", "fd66::/64", `, {"type": "tuning", "sysctl": {"net.ipv4.tcp_syncookies": "1"}}`), p.Container("c2"), "eth0")
	must(t, p.Host, "network", "create", "made")
	must(t, p.Host, "network", "create", "inner", "--internal")
	p.sh(`nft 'table inet wall { chain forward { type filter hook forward priority 10; policy drop; ct state established,related accept; iifname { "br3", "br6", "trestle0" } accept; ct status dnat accept; }; }'`)
	p.sh("iptables -A FORWARD -i trestle0 -j ACCEPT; iptables -A FORWARD -o trestle0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT; iptables -A FORWARD -i br3 -j ACCEPT; iptables -A FORWARD -o br3 -j ACCEPT; iptables -P FORWARD DROP; iptables -t nat -A PREROUTING -p tcp --dport 1 -j DNAT --to-destination 192.0.2.77:5")
	before := p.Dump()
	if found := p.examine(); len(found) > 0 {
		t.Errorf("got %+v, want nothing", found)
	}
	if got := run(t, p.Host, "doctor"); !strings.Contains(got.Stdout, "nothing found") || got.Code != 0 || got.Stderr != "" {
		t.Errorf("got %+v, want that nothing was found, and no remark", got)
	}
	p.AssertUnchanged(before)
}

// TestDoctorWithoutRoot: who cannot read leases and records is told so, rather than that
// the links of living containers are leaked ones.
func TestDoctorWithoutRoot(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.sh("install -D -m 755 " + p.Dirs().Trestle + "/trestle /opt/bin/trestle")
	for command, want := range map[string]int{"doctor": 1, "metrics": 1, "report -": 0} {
		output, err := p.Run(host.Command{
			Args: append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/opt/bin/trestle"}, strings.Fields(command)...),
			Env:  []string{"CNI_PATH=" + p.plugins},
		})
		if err != nil || output.Code != want || strings.Contains(output.Stdout, "ip link del") || !strings.Contains(output.Stdout+output.Stderr, "only root") {
			t.Errorf("%s: got %+v, %v, want exit status %d, that only root can tell, and no finding", command, output, err, want)
		}
	}
}

// TestDoctorForPeople: what is wrong, what follows, what fixes it, in 80 columns; and
// what --fix did.
func TestDoctorForPeople(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.sh("sysctl -qw net.ipv4.ip_forward=0")
	output := run(t, p.Host, "doctor")
	want := `fault: network trestle (forwarding)
  the host does not forward IPv4 (net/ipv4/ip_forward is 0): containers reach
  only the host and each other
  fix: sysctl -w net/ipv4/ip_forward=1
`
	if output.Stdout != want || output.Code != 3 {
		t.Errorf("got exit status %d and\n%swant 3 and\n%s", output.Code, output.Stdout, want)
	}
	if got := must(t, p.Host, "doctor", "--fix"); !strings.HasPrefix(got, "fixed: network trestle (forwarding)\n") {
		t.Errorf("got %s", got)
	}
	refused(t, p.Host, []string{"--fixx"}, "doctor", "--fixx")
	refused(t, p.Host, []string{"web"}, "doctor", "web")
}
