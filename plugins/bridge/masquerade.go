package bridge

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
)

// masquerade is what a configuration says of it.
type masquerade struct {
	on     bool
	policy nat.Masquerade // without the subnets, which the lease tells
	host   *nat.Host
}

type masqueradeWire struct {
	IPMasq        bool   `json:"ipMasq"`
	IPMasqBackend string `json:"ipMasqBackend"`
	Masquerade    struct {
		Exclude     []netip.Prefix `json:"exclude"`
		SNATIP4     netip.Addr     `json:"snatIP4"`
		SNATIP6     netip.Addr     `json:"snatIP6"`
		RandomFully bool           `json:"randomFully"`
	} `json:"masquerade"`
}

func parseMasquerade(r *cni.Request) (masquerade, error) {
	var w masqueradeWire
	if err := r.Decode(&w); err != nil {
		return masquerade{}, err
	}
	backend, err := nat.ParseBackend(w.IPMasqBackend)
	if err != nil {
		err = fmt.Errorf("ipMasqBackend: %w", err)
	}
	return masquerade{
		on: w.IPMasq,
		policy: nat.Masquerade{
			Exclude: w.Masquerade.Exclude, SNAT4: w.Masquerade.SNATIP4, SNAT6: w.Masquerade.SNATIP6, RandomFully: w.Masquerade.RandomFully,
		},
		host: nat.Open(nat.DefaultDir, backend),
	}, err
}

// of is the policy for the subnets that an attachment has addresses in.
func (m masquerade) of(s bridge.State) nat.Masquerade {
	policy := m.policy
	for _, a := range s.Container.Addresses {
		policy.Prefixes = append(policy.Prefixes, a.Prefix.Masked())
	}
	return policy
}

func (m masquerade) add(o cni.Owner, s bridge.State, undo *cni.Undo) error {
	if !m.on || len(s.Container.Addresses) == 0 {
		return nil
	}
	undo.Push("release masquerade", func() error { return release(o) })
	return m.host.AddMasquerade(o, m.of(s))
}

// release takes a socket of its own, since the one of a failed ADD may still
// have answers in it that nobody waits for.
func release(o cni.Owner) error {
	host := nat.Open(nat.DefaultDir, nat.Auto)
	return errors.Join(host.Release(o), host.Close())
}

func (m masquerade) check(o cni.Owner, s bridge.State) error {
	if !m.on || len(s.Container.Addresses) == 0 {
		return nil
	}
	differences, err := m.host.CheckMasquerade(o, m.of(s))
	for _, d := range differences {
		err = errors.Join(err, cni.MismatchErrorf("%s", d))
	}
	return err
}

func (m masquerade) status() error {
	if !m.on {
		return nil
	}
	return m.host.Status()
}
