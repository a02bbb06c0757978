// Package suite tests what more than one plugin has a part in: chains, any order of
// events, nonsense of every kind, the lists that we ship, commands for people.
package suite

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = host.Object
