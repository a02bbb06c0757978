package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/trestle-cni/trestle/"

// base are the packages that their siblings under pkg/ may import, each with
// those of ours that it may import itself.
var base = map[string][]string{
	"pkg/cni":      nil,
	"pkg/dump":     {"pkg/cni"},
	"pkg/flock":    {"pkg/cni"},
	"pkg/iptables": {"pkg/nft"},
	"pkg/netns":    {"pkg/cni", "pkg/flock"},
	"pkg/nft":      {"pkg/rawfile"},
	"pkg/rawfile":  {},
	"pkg/record":   {"pkg/cni", "pkg/flock", "pkg/rawfile"},
}

// subpackages are those below cmd/, each with the others that it may import. Only
// those that may import pkg/, too, combine what is there.
var subpackages = map[string]struct {
	pkg         bool
	subpackages []string
}{
	"cmd/internal/cli":      {true, nil},
	"cmd/trestle/attach":    {true, []string{"cmd/trestle/inventory", "cmd/trestle/network"}},
	"cmd/trestle/doctor":    {true, []string{"cmd/trestle/inventory", "cmd/trestle/network", "cmd/trestle/programs", "cmd/trestle/rules"}},
	"cmd/trestle/inventory": {true, []string{"cmd/trestle/network"}},
	"cmd/trestle/metrics":   {false, []string{"cmd/trestle/doctor", "cmd/trestle/inventory"}},
	"cmd/trestle/network":   {true, nil},
	"cmd/trestle/picture":   {false, []string{"cmd/trestle/inventory"}},
	"cmd/trestle/programs":  {false, nil},
	"cmd/trestle/rules":     {true, nil},
	"cmd/trestle/runtimes":  {true, nil},
	"cmd/trestle/container": {true, nil},
	"cmd/trestle/ui":        {false, nil},
	"cmd/trestle/way":       {true, []string{"cmd/trestle/inventory", "cmd/trestle/rules"}},
	"cmd/trestle/validate":  {true, []string{"cmd/trestle/network"}},
}

// TestImportTable holds the import table of docs/architecture.md: what is
// under pkg/ knows nothing of its siblings; plugins/, cmd/ and test/ combine.
func TestImportTable(t *testing.T) {
	for name, imports := range ourImports(t) {
		for _, imported := range imports {
			if !mayImport(name, imported) {
				t.Errorf("%s imports %s, which the import table does not allow", name, imported)
			}
		}
	}
}

func mayImport(name, imported string) bool {
	under := func(dirs ...string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(name+"/", dir+"/") })
	}
	_, isBase := base[imported]
	sub, isSub := subpackages[name]
	switch {
	case isSub:
		return sub.pkg && strings.HasPrefix(imported, "pkg/") || slices.Contains(sub.subpackages, imported)
	case base[name] != nil || name == "pkg/cni":
		return slices.Contains(base[name], imported)
	case under("pkg"):
		return isBase
	case under("conflist"):
		return false
	case under("plugins"):
		return strings.HasPrefix(imported, "pkg/") || strings.HasPrefix(imported, "plugins/")
	case under("cmd"):
		return !strings.HasPrefix(imported, "test/")
	}
	return under("test")
}

// TestIPAMTouchesNoKernel: leases are files, and nothing but files.
func TestIPAMTouchesNoKernel(t *testing.T) {
	for _, dependency := range goList(t, "-deps", "-f", "{{.ImportPath}}", module+"pkg/ipam/...") {
		if dependency == "os/exec" || strings.HasSuffix(dependency, "/netlink") || strings.HasSuffix(dependency, "/nftables") {
			t.Errorf("pkg/ipam depends on %s", dependency)
		}
	}
}

// TestClusterTouchesNoKernel: who has which subnet is decided without netlink, and
// without a client of any store.
func TestClusterTouchesNoKernel(t *testing.T) {
	for _, dependency := range goList(t, "-deps", "-f", "{{.ImportPath}}", module+"pkg/cluster/...") {
		if dependency == "net" || dependency == "os/exec" || strings.HasSuffix(dependency, "/netlink") || strings.Contains(dependency, "etcd") || strings.Contains(dependency, "k8s.io") {
			t.Errorf("pkg/cluster depends on %s", dependency)
		}
	}
}

// TestPluginsLinkTheFieldsModules: the plugins do by these four what they are made for.
func TestPluginsLinkTheFieldsModules(t *testing.T) {
	linked := strings.Join(goList(t, "-deps", module+"plugins"), "\n")
	for _, path := range []string{
		"github.com/containernetworking/cni", "github.com/containernetworking/plugins", "github.com/coreos/go-iptables", "github.com/vishvananda/netlink",
	} {
		if !strings.Contains(linked, path) {
			t.Errorf("no package of %s is linked", path)
		}
	}
}

// TestPluginsStartLean: each start of each plugin pays for every package that is
// linked, these most of all.
func TestPluginsStartLean(t *testing.T) {
	dear := []string{"net/http", "crypto/tls", "text/template", "log/slog", "testing"}
	for _, dependency := range goList(t, "-deps", "-f", "{{.ImportPath}}", module+"plugins") {
		if slices.Contains(dear, dependency) {
			t.Errorf("the plugins link %s", dependency)
		}
	}
}

// ourImports is the packages of this module, each with those that it imports,
// all without the module's name.
func ourImports(t *testing.T) map[string][]string {
	all := map[string][]string{}
	for _, line := range goList(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...") {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], module)
		all[name] = nil
		for _, imported := range fields[1:] {
			if ours, ok := strings.CutPrefix(imported, module); ok {
				all[name] = append(all[name], ours)
			}
		}
	}
	return all
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(stdout.String()), "\n")
}

func TestMayImport(t *testing.T) {
	for _, test := range []struct {
		name, imported string
		want           bool
	}{
		{"pkg/bridge", "pkg/cni", true},
		{"pkg/bridge", "pkg/flock", true},
		{"pkg/bridge", "pkg/ipam", false},
		{"pkg/bridge/sub", "pkg/nat", false},
		{"pkg/flock", "pkg/cni", true},
		{"pkg/flock", "pkg/ipam", false},
		{"pkg/ipam", "pkg/record", true},
		{"pkg/nat", "pkg/nft", true},
		{"pkg/record", "pkg/flock", true},
		{"pkg/record", "pkg/nft", false},
		{"pkg/nft", "pkg/record", false},
		{"pkg/nft", "pkg/cni", false},
		{"pkg/cni", "pkg/flock", false},
		{"plugins/bridge", "pkg/ipam", true},
		{"plugins", "plugins/bridge", true},
		{"plugins/bridge", "conflist", false},
		{"cmd/trestle", "conflist", true},
		{"cmd/trestle", "test/host", false},
		{"cmd/trestle", "cmd/trestle/ui", true},
		{"cmd/trestle/inventory", "pkg/ipam", true},
		{"cmd/trestle/inventory", "cmd/trestle/network", true},
		{"cmd/trestle/inventory", "cmd/trestle/ui", false},
		{"cmd/trestle/ui", "pkg/cni", false},
		{"cmd/trestle/picture", "pkg/bridge", false},
		{"conflist", "pkg/cni", false},
		{"test/host", "pkg/cni", true},
	} {
		if got := mayImport(test.name, test.imported); got != test.want {
			t.Errorf("%s importing %s: got %v, want %v", test.name, test.imported, got, test.want)
		}
	}
}

// TestStoresStayInOneProgram: linked into a plugin, a client of a store, or of WireGuard's
// keys, would cost each start milliseconds and each host megabytes.
func TestStoresStayInOneProgram(t *testing.T) {
	stores := []string{"etcd", "grpc", "k8s.io", "wgctrl"}
	for _, dependency := range goList(t, "-deps", "-f", "{{.ImportPath}}", module+"plugins", module+"cmd/trestle", module+"pkg/cluster", module+"pkg/hosts") {
		if slices.ContainsFunc(stores, func(store string) bool { return strings.Contains(dependency, store) }) {
			t.Errorf("a plugin or trestle links %s", dependency)
		}
	}
	for _, dependency := range goList(t, "-deps", "-f", "{{.ImportPath}}", module+"pkg/...") {
		if slices.ContainsFunc(stores[:3], func(store string) bool { return strings.Contains(dependency, store) }) {
			t.Errorf("a package under pkg/ links %s", dependency)
		}
	}
	for _, dependency := range goList(t, "-deps", "-f", "{{.ImportPath}}", module+"plugins") {
		if ours, ok := strings.CutPrefix(dependency, module); ok && slices.Contains([]string{"pkg/cluster", "pkg/overlay", "pkg/hosts"}, ours) {
			t.Errorf("the plugins link %s: they know nothing of other hosts", ours)
		}
	}
}

// maxPluginSize is what the plugins' one executable may weigh on amd64, as it is built for
// users. Who exceeds it looks at what was linked (go list -deps, go tool nm -size), and
// says in the commit what the megabytes are for.
const maxPluginSize = 8 << 20

// TestPluginsStaySmall: the size is read again and again, by each start of each plugin.
func TestPluginsStaySmall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plugins")
	cmd := exec.Command("go", "build", "-trimpath", "-buildmode=exe", "-ldflags", "-s -w", "-o", file, module+"plugins")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxPluginSize {
		t.Errorf("the plugins weigh %d KiB, and %d are the most", info.Size()>>10, int64(maxPluginSize)>>10)
	}
}
