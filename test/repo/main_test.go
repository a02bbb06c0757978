// Package repo holds what must be true of the repository as a whole: who imports whom,
// that the pages find what they name, make, and the one list of plugins.
package repo

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }
