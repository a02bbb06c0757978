// Package bandwidth limits the rate of a container's interface: traffic to the container by a
// token bucket on the host veth, traffic from it by another one on an ifb, which it is
// redirected to.
//
// A caller parses the configuration (ParseLimits), finds the host veth (Host.FindHostVeth) and
// calls Host.Add. Host.Release needs only the owner, since the ifb's name is a hash of it.
// Start at Host.Add. To debug: tc qdisc show; tc filter show dev VETH ingress; ip -details link
// show type ifb, whose aliases are the owners.
package bandwidth

import (
	"math"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Limits are the limits of one interface. Ingress and egress are seen from the container.
type Limits struct {
	Ingress, Egress limit
}

// limit is a token bucket; the zero value is none.
type limit struct {
	Rate  uint64 // bits a second
	Burst uint64 // bits
}

// wire is the configuration's JSON. The keys may be at the top level or in
// "runtimeConfig.bandwidth" (CNI CONVENTIONS.md, "bandwidth").
type wire struct {
	entry
	RuntimeConfig struct {
		Bandwidth entry `json:"bandwidth"`
	} `json:"runtimeConfig"`
}

type entry struct {
	IngressRate  *uint64 `json:"ingressRate"`
	IngressBurst *uint64 `json:"ingressBurst"`
	EgressRate   *uint64 `json:"egressRate"`
	EgressBurst  *uint64 `json:"egressBurst"`
}

func (e entry) empty() bool { return e == entry{} }

// ParseLimits reads the keys of the bandwidth plugin. If the configuration has any of them,
// those in runtimeConfig are ignored. Errors have code 6 or 7.
func ParseLimits(r *cni.Request) (Limits, error) {
	var w wire
	if err := r.Decode(&w); err != nil {
		return Limits{}, err
	}
	e, prefix := w.entry, ""
	if e.empty() {
		e, prefix = w.RuntimeConfig.Bandwidth, "runtimeConfig.bandwidth."
	}
	limits := Limits{
		Ingress: limit{value(e.IngressRate), value(e.IngressBurst)},
		Egress:  limit{value(e.EgressRate), value(e.EgressBurst)},
	}
	if err := limits.Ingress.check(prefix + "ingress"); err != nil {
		return Limits{}, err
	}
	return limits, limits.Egress.check(prefix + "egress")
}

func value(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

const tooManyBits = 8 * math.MaxUint32

// check refuses what the kernel cannot represent: it counts whole bytes, and those of the
// bucket in 32 bits (struct tc_tbf_qopt, linux/pkt_sched.h).
func (l limit) check(field string) error {
	switch {
	case l.Rate != 0 && l.Burst == 0:
		return cni.ConfigErrorf("%[1]sBurst: missing, beside %[1]sRate %[2]d; give both, or neither", field, l.Rate)
	case l.Rate == 0 && l.Burst != 0:
		return cni.ConfigErrorf("%[1]sRate: missing, beside %[1]sBurst %[2]d; give both, or neither", field, l.Burst)
	case l.Rate != 0 && l.Rate < 8:
		return cni.ConfigErrorf("%sRate: %d bits per second are not one byte; use 8 or more", field, l.Rate)
	case l.Burst >= tooManyBits: // not "l.Burst/8 >= math.MaxUint32", which Go 1.26 compiles to false on s390x
		return cni.ConfigErrorf("%sBurst: %d bits are out of bounds; use less than %d", field, l.Burst, uint64(tooManyBits))
	}
	return nil
}

// IsNone says whether there is nothing to limit.
func (l Limits) IsNone() bool { return l == Limits{} }

func (l limit) isNone() bool { return l == limit{} }
