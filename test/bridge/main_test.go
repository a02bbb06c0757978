// Package bridge tests the bridge plugin on a real kernel, as runtimes run it.
package bridge

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = host.Object
