package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrTooOld says that the cluster asks for a newer agent than this one.
var ErrTooOld = errors.New("this trestle-node is too old for the cluster")

// release is a version's numbers: major, minor, patch.
type release [3]int

// parseRelease reads a version like 2.1.0. A suffix, as in 2.1.0-dev, is ignored: such a
// build has what the release is to have.
func parseRelease(version string) (r release, err error) {
	plain := version
	if i := strings.IndexAny(version, "-+"); i >= 0 {
		plain = version[:i]
	}
	numbers := strings.Split(plain, ".")
	if len(numbers) != len(r) {
		return r, fmt.Errorf("%q is no version; write it like 2.1.0", version)
	}
	for i, text := range numbers {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return r, fmt.Errorf("%q is no version; write it like 2.1.0", version)
		}
		r[i] = int(n)
	}
	return r, nil
}

// CheckAgent is ErrTooOld, with the way out, where the version is older than MinAgent. A
// version that cannot be read counts as too old.
func (c Config) CheckAgent(version string) error {
	if c.MinAgent == "" {
		return nil
	}
	least, err := parseRelease(c.MinAgent)
	if err != nil {
		return err
	}
	if have, err := parseRelease(version); err == nil && slices.Compare(have[:], least[:]) >= 0 {
		return nil
	}
	return fmt.Errorf(`%w: it asks for %s or newer ("minAgent"), and this is %s; upgrade trestle-node on this host`, ErrTooOld, c.MinAgent, version)
}

// Outdated is an error if this agent is too old for the cluster.
func (m *Member) Outdated() error { return m.State.Config.CheckAgent(m.Version) }

// keep is Reconcile for an agent that is too old: it gives up the subnets that are another
// host's now, and claims and publishes nothing. A host without a subnet gets the error.
func (m *Member) keep(view View, outdated error) error {
	claims := readClaims(view)
	m.resolvePending(claims)
	m.compare(claims, &Txn{}) // the transaction is not committed
	if err := m.save(); err != nil {
		return err
	}
	if len(m.State.Claims) == 0 {
		return outdated
	}
	return nil
}
