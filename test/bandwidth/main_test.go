// Package bandwidth tests bandwidth on a real kernel.
package bandwidth

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }
