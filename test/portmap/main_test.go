// Package portmap tests NAT, masquerade and mapped ports, by portmap and by the bridge
// plugin, with each backend, and what `trestle restore` makes again.
package portmap

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = host.Object
