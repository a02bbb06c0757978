package nat

import (
	"errors"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// TestExplainTaken: who has the port, and the way out, also where the comment is no label of ours;
// another error stays as it is.
func TestExplainTaken(t *testing.T) {
	t.Parallel()
	for holder, want := range map[string]string{"blue/c1/eth0": "taken by container c1 of network blue,", "somebody": "taken by container somebody,"} {
		err := explainTaken(&nft.TakenError{Element: nft.Element{Set: "hostports4", What: "mapping tcp 0.0.0.0:8080 to 10.9.0.3:80"}, Holder: holder})
		if cni.CodeOf(err) != cni.CodeConflict {
			t.Errorf("%s: got code %d, want %d", holder, cni.CodeOf(err), cni.CodeConflict)
		}
		for _, part := range []string{"mapping tcp 0.0.0.0:8080 to 10.9.0.3:80: the host port is " + want, "hostports4", "stop that container or choose another host port", "trestle restore"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %q, want %q in it", holder, err, part)
			}
		}
	}
	other := errors.New("other")
	if got := explainTaken(other); !errors.Is(got, other) || explainTaken(nil) != nil {
		t.Errorf("got %v, want it as it is", got)
	}
}
