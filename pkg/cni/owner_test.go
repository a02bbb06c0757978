package cni

import (
	"strings"
	"testing"
)

func TestOwnerLabel(t *testing.T) {
	long := strings.Repeat("n", 200)
	tests := []struct {
		name  string
		owner Owner
		want  string // if empty, only the length is checked
	}{
		{"plain", Owner{"net", "c1", "eth0"}, "net/c1/eth0"},
		{"64 hex digits fit", Owner{"net", strings.Repeat("a", 64), "eth0"}, "net/" + strings.Repeat("a", 64) + "/eth0"},
		{"long network", Owner{long, "c1", "eth0"}, ""},
		{"long everything", Owner{long, long, "eth0123456789ab"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.owner.String()
			if tt.want != "" && got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(got) > 240 {
				t.Errorf("got a label of %d bytes, want at most 240: an ifalias holds 255", len(got))
			}
			if !strings.HasPrefix(got, NetworkLabel(tt.owner.Network)) {
				t.Errorf("label %q does not begin with its network's %q", got, NetworkLabel(tt.owner.Network))
			}
			if tt.want != "" {
				if back, ok := ParseOwner(got); !ok || back != tt.owner {
					t.Errorf("parsed back: got %v, want %v", back, tt.owner)
				}
			}
		})
	}
}

// Owners that differ only behind the cut of a long name must not have the same label, and
// owners whose names are the same when concatenated must not have the same hash.
func TestOwnersAreToldApart(t *testing.T) {
	long := strings.Repeat("x", 150)
	pairs := [][2]Owner{
		{{"net", long + "1", "eth0"}, {"net", long + "2", "eth0"}},
		{{"a", "b-c", "eth0"}, {"a-b", "c", "eth0"}},
	}
	for _, p := range pairs {
		if p[0].String() == p[1].String() {
			t.Errorf("%v and %v share the label %s", p[0], p[1], p[0])
		}
		if p[0].Hash(11) == p[1].Hash(11) {
			t.Errorf("%v and %v share the hash %s", p[0], p[1], p[0].Hash(11))
		}
	}
}

func TestParseOwnerRefuses(t *testing.T) {
	for _, label := range []string{"", "a", "a/b", "a//c", "a/b/c/d", "/b/c"} {
		if o, ok := ParseOwner(label); ok {
			t.Errorf("%q: got %v, want none", label, o)
		}
	}
}
