// Package firewall tests the firewall plugin beside other firewalls, and firewalld.
package firewall

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

type object = host.Object
