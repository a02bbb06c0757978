package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// iperfPort is the one that iperf3 listens at, in a namespace of its own.
const iperfPort = 5201

func hasIPerf() bool {
	_, err := exec.LookPath("iperf3")
	return err == nil
}

// iperf3 sends, and gives how long what has arrived would have taken if all had arrived: UDP
// may lose some.
func iperf3(from *host.Namespace, to netip.AddrPort, args ...string) (time.Duration, error) {
	args = append([]string{"iperf3", "-J", "-c", to.Addr().String(), "-p", fmt.Sprint(to.Port())}, args...)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		output, err := from.Run(host.Command{Args: args})
		if err != nil {
			return 0, err
		}
		took, err := iperfTook([]byte(output.Stdout))
		if err == nil || time.Now().After(deadline) {
			return took, err // the server may not listen yet, or not be done with the last one
		}
	}
}

// iperfTook reads iperf3's report.
func iperfTook(report []byte) (time.Duration, error) {
	var said struct {
		Error string
		End   struct {
			// Of TCP, what each end saw.
			Received *struct{ Seconds float64 } `json:"sum_received"`
			// Of UDP, of the receiver.
			Sum *struct {
				Seconds     float64
				Packets     float64
				LostPercent float64 `json:"lost_percent"`
			} `json:"sum"`
		} `json:"end"`
	}
	if err := json.Unmarshal(report, &said); err != nil {
		return 0, fmt.Errorf("report of iperf3: %w", err)
	}
	var seconds float64
	switch sum := said.End.Sum; {
	case sum != nil && sum.LostPercent < 100:
		seconds = sum.Seconds / (1 - sum.LostPercent/100)
	case sum == nil && said.End.Received != nil:
		seconds = said.End.Received.Seconds
	default:
		return 0, fmt.Errorf("report of iperf3: nothing has arrived: %s", said.Error)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
