// Package tuning tests tuning on a real kernel.
package tuning

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = host.Object
