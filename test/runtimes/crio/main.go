// Command crio makes the calls that CRI-O makes, by CRI-O's own CNI client
// (github.com/cri-o/ocicni), on the default network of /etc/cni/net.d.
//
//	usage: crio PLUGINDIR status
//	       crio PLUGINDIR up|check|down <POD     a pod as JSON: {"name", "id", "netNS", "ports"}
//	       crio PLUGINDIR gc <PODS               those that are alive, one JSON object after another
//
// up and check print the attachment's result. Like the client of ../cri it is a
// module of its own, since what it needs nothing else here needs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cri-o/ocicni/pkg/ocicni"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: crio PLUGINDIR status|up|check|down|gc <PODS")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "crio:", err)
		os.Exit(1)
	}
}

func run(plugins, call string) error {
	network, err := ocicni.InitCNINoInotify("", "/etc/cni/net.d", "", plugins)
	if err != nil {
		return err
	}
	var pods []*ocicni.PodNetwork
	if call != "status" {
		if pods, err = readPods(network.GetDefaultNetworkName()); err != nil {
			return err
		}
	}
	switch {
	case call == "status":
		return network.Status()
	case call == "gc":
		return network.GC(context.Background(), pods)
	case len(pods) != 1:
		return fmt.Errorf("got %d pods, want one", len(pods))
	case call == "up":
		return up(network, *pods[0])
	case call == "check":
		return show(network.GetPodNetworkStatus(*pods[0]))
	case call == "down":
		return network.TearDownPod(*pods[0])
	}
	return fmt.Errorf("unknown call %q", call)
}

// up is ADD and at once CHECK, whose failure is the pod's: CRI-O takes the pod
// down again then.
func up(network ocicni.CNIPlugin, pod ocicni.PodNetwork) error {
	if err := network.Status(); err != nil {
		return err
	}
	if _, err := network.SetUpPod(pod); err != nil {
		return errors.Join(err, network.TearDownPod(pod))
	}
	if err := show(network.GetPodNetworkStatus(pod)); err != nil {
		return errors.Join(err, network.TearDownPod(pod))
	}
	return nil
}

func show(results []ocicni.NetResult, err error) error {
	if err != nil {
		return err
	}
	for _, result := range results {
		if err := json.NewEncoder(os.Stdout).Encode(result.Result); err != nil {
			return err
		}
	}
	return nil
}

// readPods reads pods from standard input and says of each what CRI-O says.
func readPods(network string) ([]*ocicni.PodNetwork, error) {
	var pods []*ocicni.PodNetwork
	for decoder := json.NewDecoder(os.Stdin); ; {
		var pod struct {
			Name, ID, NetNS string
			Ports           []ocicni.PortMapping
		}
		if err := decoder.Decode(&pod); errors.Is(err, io.EOF) {
			return pods, nil
		} else if err != nil {
			return nil, fmt.Errorf("read pods: %w", err)
		}
		annotations := map[string]string{"kubernetes.io/config.source": "api"}
		pods = append(pods, &ocicni.PodNetwork{
			Name: pod.Name, Namespace: "default", UID: "uid-" + pod.Name, ID: pod.ID, NetNS: pod.NetNS,
			RuntimeConfig: map[string]ocicni.RuntimeConfig{network: {
				PortMappings:   pod.Ports,
				CgroupPath:     "/kubepods.slice/" + pod.ID,
				PodAnnotations: &annotations,
			}},
		})
	}
}
