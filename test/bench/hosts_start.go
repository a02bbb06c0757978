package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// subnet is the destination, if it is in the pool and not the whole of it.
func subnet(to *net.IPNet) (netip.Prefix, bool) {
	if to == nil || to.IP.To4() == nil {
		return netip.Prefix{}, false
	}
	addr, _ := netip.AddrFromSlice(to.IP.To4()) // an address of IPv4
	bits, _ := to.Mask.Size()
	return netip.PrefixFrom(addr, bits), pool.Contains(addr) && bits > pool.Bits()
}

// member is a host that has so many peers, all of them simulated.
type member struct {
	joiner
	host  *lab.Host
	peers int
	stop  func() string
}

func newMember(t host.T, on *lab.Lab, j joiner, peers int) *member {
	m := &member{joiner: j, host: on.Host("a"), peers: peers}
	if err := j.prepare(m.host, peers); err != nil {
		t.Fatalf("%v", err)
	}
	if _, err := m.begin(); err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// begin starts it where nothing is there, and says how long all routes took.
func (m *member) begin() (time.Duration, error) {
	l, err := newLookout(m.host)
	if err != nil {
		return 0, err
	}
	defer l.close()
	began := time.Now()
	m.stop = m.start(m.host)
	err = l.await(m.peers)
	return time.Since(began), err
}

// beginner is a program with the peers that it is to have.
type beginner struct {
	name string
	make func() *member
}

// beginners are all programs that are there, each with a way to its peers.
func beginners(t host.T, peers int) []beginner {
	on := func(j func(e *lab.Etcd) joiner) func() *member {
		return func() *member {
			e := lab.New(t).Etcd(1)
			return newMember(t, e.Lab, j(e), peers)
		}
	}
	all := []beginner{
		{"trestle, etcd", on(func(e *lab.Etcd) joiner { return &onEtcd{e} })},
		{"trestle, etcd, a boot", on(func(e *lab.Etcd) joiner { return &rebooted{onEtcd{e}} })},
		{"trestle, a list", func() *member {
			l := lab.New(t)
			return newMember(t, l, &onList{l}, peers)
		}},
	}
	if program := os.Getenv(flannelVariable); program != "" {
		all = append(all, beginner{"flannel, etcd", on(func(e *lab.Etcd) joiner { return &flannel{e, program} })})
	}
	return all
}

func starts(t host.T, peers int) []measure.Variant {
	var all []measure.Variant
	for _, b := range beginners(t, peers) {
		m := b.make()
		all = append(all, measure.Variant{Name: b.name, Round: func() ([]time.Duration, error) {
			if err := m.leave(m.host, m.stop); err != nil {
				return nil, err
			}
			took, err := m.begin()
			return []time.Duration{took}, err
		}})
	}
	return all
}

func startsAnew(t host.T, s size) []measure.Variant {
	var all []measure.Variant
	for _, peers := range s.hosts {
		e := lab.New(t).Etcd(1)
		m := newMember(t, e.Lab, &onEtcd{e}, peers)
		e.Ready(m.host, peers)
		all = append(all, measure.Variant{Name: fmt.Sprintf("%d peers", peers), Round: func() ([]time.Duration, error) {
			m.stop()
			took, said, err := m.anew()
			if strings.Contains(said, "bring the kernel") || strings.Contains(said, "repair") {
				err = fmt.Errorf("started over what is there it changed something: %s", said)
			}
			return []time.Duration{took}, err
		}})
	}
	return all
}

// anew starts the agent where all is there, and says how long it took until it was ready,
// and what it had to say.
func (m *member) anew() (took time.Duration, said string, err error) {
	began := time.Now()
	m.stop = m.start(m.host)
	for deadline := began.Add(lab.Patience); ; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, "", errors.New("the agent is not ready")
		}
		var status *hosts.Status
		if err := m.host.Do(func() (err error) { status, err = hosts.Read(hosts.StatusPath); return err }); err != nil {
			return 0, "", err
		}
		if status != nil && status.State == hosts.Ready && status.Updated.After(began) && len(status.Peers) == m.peers {
			break
		}
	}
	return time.Since(began), m.stop(), nil
}
