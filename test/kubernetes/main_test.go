//go:build kubernetes

package kubernetes

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

func TestMain(m *testing.M) { os.Exit(runtimes.Main(m)) }
