package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// flannelVariable names the program of flannel, if somebody has built it (docs/hosts.md).
const flannelVariable = "FLANNELD"

// flannelNote says of a page whether flannel's figures are of its run.
func flannelNote() string {
	program := os.Getenv(flannelVariable)
	if program == "" {
		return "Flannel was not measured in this run, so its rows are missing; [hosts](hosts.md#next-to-flannel) says how to have it measured."
	}
	return "Rows of flannel are of this run, with " + flannelVersion(program) + ", built as [hosts](hosts.md#next-to-flannel) says."
}

// flannelVersion is that of the module in the program, which does not know its own.
func flannelVersion(program string) string {
	const module = "github.com/flannel-io/flannel"
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "a flannel of unknown version"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return "flannel " + m.Version
		}
	}
	return "a flannel of unknown version"
}

// joiner is a program that takes hosts into a network.
type joiner interface {
	// prepare writes the configuration, and has so many hosts join that there are none of.
	prepare(h *lab.Host, simulated int) error
	// start starts it on a host; stop kills it.
	start(h *lab.Host) (stop func() string)
	pid(h *lab.Host) (int, error)
	// leave takes a host on which it runs out of the network, so that nothing is left over.
	leave(h *lab.Host, stop func() string) error
	// watched are its keys.
	watched() watched
}

// watched are the keys of an etcd that all hosts watch.
type watched struct {
	*lab.Etcd
	prefix string
	asks   bool // for the lease of each that has come
}

// pool is what the subnets are of.
var pool = netip.MustParsePrefix("10.0.0.0/8")

// byEach has a variant for ours, and one for flannel where it is there, each on an etcd of
// its own.
func byEach(t host.T, prepare func(joiner) round) []measure.Variant {
	all := []measure.Variant{{Name: "trestle", Round: prepare(&onEtcd{lab.New(t).Etcd(1)})}}
	if program := os.Getenv(flannelVariable); program != "" {
		all = append(all, measure.Variant{Name: "flannel", Round: prepare(&flannel{lab.New(t).Etcd(1), program})})
	}
	return all
}

// agentPID is the number of our agent's process.
func agentPID(h *lab.Host) (int, error) {
	status, err := h.Status()
	return status.PID, err
}

// onEtcd is our agent with its peers in etcd, and times as they are where nothing is said.
type onEtcd struct{ *lab.Etcd }

func (o *onEtcd) prepare(_ *lab.Host, simulated int) error {
	store := o.Store()
	if err := store.Put(context.Background(), "config", `{"id": "bench", "networks": [{"name": "pods", "ipv4": {"pool": "10.0.0.0/8", "subnetLen": 24}}]}`); err != nil {
		return err
	}
	_, err := store.Join(simulated, false)
	return err
}

func (o *onEtcd) start(h *lab.Host) (stop func() string) {
	return o.Agent(h, lab.Settings{"name": h.Name, "etcd": map[string]any{"endpoints": o.URLs()}}).Kill
}

func (o *onEtcd) pid(h *lab.Host) (int, error) { return agentPID(h) }

func (o *onEtcd) leave(h *lab.Host, stop func() string) error {
	out := h.Node("node", "leave")
	stop()
	h.MustRun("rm", "-rf", "/var/lib/trestle", "/run/trestle")
	if out.Code != 0 {
		return fmt.Errorf("leave: %s%s", out.Stdout, out.Stderr)
	}
	return nil
}

func (o *onEtcd) watched() watched { return watched{o.Etcd, "/trestle/v1/default/nodes/", false} }

// rebooted is the same where a host that has left the kernel's state behind has that of its
// disk: what a boot is.
type rebooted struct{ onEtcd }

func (r *rebooted) leave(h *lab.Host, stop func() string) error {
	stop()
	h.MustRun("sh", "-c", "ip link del trestle-vx && ip route flush proto 116 && nft flush ruleset && rm -r /run/trestle/node")
	return nil
}

// onList is our agent with its peers in a list.
type onList struct{ *lab.Lab }

func (o *onList) prepare(h *lab.Host, simulated int) error {
	h.Write(listPath, hostList("vxlan", simulated))
	return nil
}

func (o *onList) start(h *lab.Host) (stop func() string) {
	return o.Agent(h, lab.Settings{"name": h.Name}).Kill
}

func (o *onList) pid(h *lab.Host) (int, error) { return agentPID(h) }

func (o *onList) leave(h *lab.Host, stop func() string) error {
	stop()
	h.MustRun("sh", "-c", "ip link del trestle-vx && ip route flush proto 116 && rm -r /run/trestle/node /var/lib/trestle")
	return nil
}

func (o *onList) watched() watched { return watched{} } // a file is nobody else's

// flannel is that, with vxlan, as ours has it.
type flannel struct {
	*lab.Etcd
	program string
}

const (
	flannelKeys = "/coreos.com/network/"
	flannelPID  = "/run/flanneld.pid"
)

// flannelLease is what flannel writes of a host.
type flannelLease struct {
	PublicIP    string
	BackendType string
	BackendData struct{ VNI, VtepMAC any }
}

func (f *flannel) prepare(_ *lab.Host, simulated int) error {
	client, ctx := f.Client(), context.Background()
	if _, err := client.Put(ctx, flannelKeys+"config", fmt.Sprintf(`{"Network": %q, "SubnetLen": 24, "Backend": {"Type": "vxlan"}}`, pool)); err != nil {
		return err
	}
	for i := range simulated {
		record := lab.Record(i)
		data := flannelLease{PublicIP: record.Underlay[0].Addr().String(), BackendType: "vxlan"}
		data.BackendData.VNI, data.BackendData.VtepMAC = 1, record.MAC
		value, err := json.Marshal(data)
		if err != nil {
			return err
		}
		const day = 24 * 3600 // flannel's
		lease, err := client.Grant(ctx, day)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%ssubnets/10.%d.%d.0-24", flannelKeys, 60+i/256, i%256)
		if _, err := client.Put(ctx, key, string(value), clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	return nil
}

func (f *flannel) start(h *lab.Host) (stop func() string) {
	return h.Start(host.Command{Args: []string{
		"sh", "-c", `echo $$ >` + flannelPID + `; exec "$0" "$@"`,
		f.program, "--etcd-endpoints", strings.Join(f.URLs(), ","), "--iface", "eth0", "--ip-masq=false",
	}})
}

func (f *flannel) pid(h *lab.Host) (int, error) {
	return strconv.Atoi(strings.TrimSpace(h.MustRun("cat", flannelPID)))
}

func (f *flannel) leave(h *lab.Host, stop func() string) error {
	stop()
	h.MustRun("sh", "-c", "ip link del flannel.1 && rm -r /run/flannel")
	client, ctx := f.Client(), context.Background()
	all, err := client.Get(ctx, flannelKeys+"subnets/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range all.Kvs {
		var lease flannelLease
		if err := json.Unmarshal(kv.Value, &lease); err != nil {
			return err
		}
		if lease.PublicIP == h.IPv4.String() {
			_, err := client.Delete(ctx, string(kv.Key))
			return err
		}
	}
	return errors.New("flannel's etcd knows nothing of " + h.Name)
}

func (f *flannel) watched() watched { return watched{f.Etcd, flannelKeys + "subnets/", true} }
