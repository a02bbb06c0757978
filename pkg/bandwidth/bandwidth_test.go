package bandwidth

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func request(config string) *cni.Request {
	return &cni.Request{Command: cni.Add, Version: "1.0.0", Stdin: []byte(config)}
}

func TestParseLimits(t *testing.T) {
	for _, test := range []struct {
		name, config string
		want         Limits
	}{
		{"none", `{}`, Limits{}},
		{"zeros", `{"ingressRate": 0, "ingressBurst": 0}`, Limits{}},
		{"both", `{"ingressRate": 8000, "ingressBurst": 1600, "egressRate": 9000, "egressBurst": 1700}`, Limits{limit{8000, 1600}, limit{9000, 1700}}},
		{"runtime's", `{"runtimeConfig": {"bandwidth": {"egressRate": 9000, "egressBurst": 1700}}}`, Limits{Egress: limit{9000, 1700}}},
		{
			"containerd's", `{"runtimeConfig": {"bandwidth": {"IngressRate": 1000000, "IngressBurst": 4294967295, "EgressRate": 0, "EgressBurst": 0}}}`,
			Limits{Ingress: limit{1000000, math.MaxUint32}},
		},
		{"configuration before runtime", `{"egressRate": 8, "egressBurst": 8, "runtimeConfig": {"bandwidth": {"ingressRate": 9000, "ingressBurst": 1700}}}`, Limits{Egress: limit{8, 8}}},
		{"configured zero before runtime", `{"egressRate": 0, "runtimeConfig": {"bandwidth": {"ingressRate": 9000, "ingressBurst": 1700}}}`, Limits{}},
		{"largest burst", `{"ingressRate": 9000, "ingressBurst": 34359738359}`, Limits{Ingress: limit{9000, 34359738359}}},
		{"rate of more than 32 bits", `{"ingressRate": 100000000000, "ingressBurst": 8000000}`, Limits{Ingress: limit{1e11, 8e6}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := ParseLimits(request(test.config)); err != nil || got != test.want {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		name, config string
		code         cni.Code
		want         string
	}{
		{"no burst", `{"ingressRate": 8000}`, 7, "ingressBurst: missing, beside ingressRate 8000"},
		{"no rate", `{"egressBurst": 8000}`, 7, "egressRate: missing, beside egressBurst 8000"},
		{"runtime's", `{"runtimeConfig": {"bandwidth": {"egressRate": 1}}}`, 7, "runtimeConfig.bandwidth.egressBurst: missing"},
		{"less than a byte", `{"ingressRate": 7, "ingressBurst": 8000}`, 7, "ingressRate: 7 bits"},
		{"burst of 4 GB", `{"ingressRate": 8000, "ingressBurst": 34359738360}`, 7, "ingressBurst: 34359738360 bits"},
		{"negative", `{"ingressRate": -1, "ingressBurst": 8000}`, 6, "ingressRate: the number -1 is not a whole number, or too large or too small"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseLimits(request(test.config))
			if err == nil || cni.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want code %d and %q", err, test.code, test.want)
			}
		})
	}
}

// TestBucket: a microsecond is 15.625 ticks in every current kernel (PSCHED_SHIFT,
// net/pkt_sched.h).
func TestBucket(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit limit
		want  bucket
	}{
		// a burst of 1 MB lasts a second at 1 MB/s; 25 ms of the rate, and the burst, may be queued
		{"as the reference plugin", limit{8e6, 8e6}, bucket{1e6, 15625000, 1025000}},
		{"a burst of less than a frame", limit{8e6, 8}, bucket{1e6, 23658, 26514}},
		{"a fast one of little burst", limit{8e10, 8 * 1600}, bucket{1e10, 4, 250001600}},
		{"containerd's burst at 1 Mbit/s", limit{1e6, math.MaxUint32}, bucket{125000, math.MaxUint32, 536874036}},
		{"limit above 32 bits", limit{8e12, 34359738359}, bucket{1e12, 67093, math.MaxUint32}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := newBucket(test.limit, 1500, 15.625); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestQueueOfAnotherKind: fq_codel, to which Debian's kernels return after a bucket is deleted,
// numbers its options like a bucket's, but with other sizes.
func TestQueueOfAnotherKind(t *testing.T) {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	for number := range 12 {
		options.AddRtAttr(number+1, nl.Uint32Attr(1))
	}
	reply := make([]byte, nl.SizeofTcMsg)
	for _, a := range []*nl.RtAttr{nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("fq_codel")), options} {
		reply = append(reply, a.Serialize()...)
	}
	if got, err := parseBucket(reply); err != nil || got != (bucket{}) {
		t.Errorf("got %v, %v, want no bucket", got, err)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]string{}
	for _, o := range []cni.Owner{
		{Network: "n", ContainerID: "c1", IfName: "eth0"}, {Network: "n", ContainerID: "c2", IfName: "eth0"}, {Network: "m", ContainerID: "c1", IfName: "eth0"},
	} {
		for _, name := range names(o) {
			if len(name) != 15 || seen[name] != "" {
				t.Errorf("%v: got %q, want 15 bytes and no name twice (%s)", o, name, seen[name])
			}
			seen[name] = o.String()
		}
	}
	// the reference plugin's name: "bwp" and the SHA-512 of network and container
	if got := names(cni.Owner{Network: "n", ContainerID: "c1", IfName: "eth1"}); !slices.Contains(got, "bwp9b00b9b7c279") {
		t.Errorf("got %v, want the reference plugin's name among them", got)
	}
}
