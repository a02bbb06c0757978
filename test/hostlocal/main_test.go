// Package hostlocal tests host-local, by itself and for the bridge plugin, beside the
// reference's host-local.
package hostlocal

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = host.Object
