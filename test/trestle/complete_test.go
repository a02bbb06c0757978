package trestle

import (
	"strings"
	"testing"
)

// TestCompletion: shells are offered commands, networks, containers and modes; by the same
// command that their scripts call.
func TestCompletion(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "network", "create", "db", "--ingress", "open")
	must(t, h, "attach", "web", "lab")
	for _, test := range []struct{ words, want string }{
		{"network rm ", "lab db"},
		{"network rm lab ", "db"},
		{"attach ", "web"},
		{"attach web ", "lab db"},
		{"detach ", "web"},
		{"detach web ", "lab db"},
		{"run --net ", "bridge host none lab db container:web"},
		{"network create x --ingress ", "published same-bridge isolated open"},
		{"ls ", "lab db"},
		{"node ", "join status drain undrain"},
		{"node st", "status"},
		{"cluster config ", "get set"},
		{"cluster nodes --et", "--etcd"},
	} {
		args := strings.Split(test.words, " ")
		offered := strings.Fields(strings.Split(must(t, h, append([]string{"__complete"}, args...)...), "\n:")[0])
		for _, want := range strings.Fields(test.want) {
			found := false
			for _, word := range offered {
				found = found || word == want
			}
			if !found {
				t.Errorf("%q: got %q, want %s among it", test.words, offered, want)
			}
		}
	}
	if script := must(t, h, "completion", "bash"); !strings.Contains(script, "__start_trestle") {
		t.Errorf("got %s, want bash's script", script)
	}
	refused(t, h, []string{`"tcsh"`, "trestle completion --help"}, "completion", "tcsh")
}
