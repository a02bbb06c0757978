// Package hosts runs networks over several hosts on a real kernel: hosts are namespaces
// on a switch, and their store is Debian's etcd, or a file.
package hosts

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }
