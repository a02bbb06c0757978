package repo

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/plugins/registry"
	"github.com/trestle-cni/trestle/test/host"
)

// TestOneListOfPlugins: plugins/registry is the only list. What make builds and
// installs follows it, each folder with a plugin is in it under the plugin's own
// name, nobody has another list, and the shell loops of the pages name the same.
func TestOneListOfPlugins(t *testing.T) {
	want := host.Plugins()
	same := func(where string, names []string) {
		t.Helper()
		if slices.Sort(names); !slices.Equal(names, want) {
			t.Errorf("%s: got %q, want what plugins/registry has, %q", where, names, want)
		}
	}
	same("make", strings.Fields(mustMake(t, nil, "-C", "../..", "--no-print-directory", "--eval", "names: ; @echo $(PLUGINS)", "names")))

	var folders []string
	for name, plugin := range registry.Plugins() {
		if plugin().Name != name {
			t.Errorf("plugins/registry has %q under the name %q", plugin().Name, name)
		}
	}
	files, err := filepath.Glob("../../plugins/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.Contains(readFile(t, file), "func Plugin() cni.Plugin") {
			folders = append(folders, filepath.Base(filepath.Dir(file)))
		}
	}
	same("folders with a plugin", folders)

	for page := range allHeadings(t) {
		for _, loop := range regexp.MustCompile(`for \w+ in ([a-z -]*host-local[a-z -]*);`).FindAllStringSubmatch(readFile(t, page), -1) {
			same("a loop in "+page, strings.Fields(loop[1]))
		}
	}
	noOtherList(t, want)
}

// TestEveryStateIsRegistered: a package that makes what GC takes back is in the list
// that GC, STATUS and `trestle restore` go through, and one that has rules in nftables,
// which anybody may flush, restores them.
func TestEveryStateIsRegistered(t *testing.T) {
	collects, restores := map[string]bool{}, map[string]bool{}
	for _, state := range registry.States() {
		if state.Package == "" || state.What == "" || state.GC == nil {
			t.Errorf("a state of %q, %q: want the package, what it is, and its GC", state.Package, state.What)
		}
		collects[state.Package] = true
		restores[state.Package] = restores[state.Package] || state.Restore != nil
	}
	for name, imports := range ourImports(t) {
		if !strings.HasPrefix(name, "pkg/") {
			continue
		}
		files, err := filepath.Glob("../../" + name + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		isCollector := func(file string) bool {
			return slices.ContainsFunc(slices.Collect(maps.Keys(declarations(t, file))), func(symbol string) bool { return strings.HasSuffix(symbol, ".GC") })
		}
		if name != "pkg/cni" && slices.ContainsFunc(files, isCollector) && !collects[name] {
			t.Errorf("%s has a GC, and no plugin has a cni.State of it", name)
		}
		// trestle-node repairs by itself what pkg/overlay has
		if name != "pkg/overlay" && slices.Contains(imports, "pkg/nft") && base[name] == nil && !restores[name] {
			t.Errorf("%s has rules in nftables, and no cni.State of it restores them", name)
		}
	}
}

// noOtherList: no line of code names all plugins.
func noOtherList(t *testing.T, names []string) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "bin" || path != "../.." && strings.HasPrefix(entry.Name(), ".")) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" && entry.Name() != "Makefile" {
			return nil
		}
		for number, line := range strings.Split(readFile(t, path), "\n") {
			if !slices.ContainsFunc(names, func(name string) bool { return !strings.Contains(line, name) }) {
				t.Errorf("%s:%d lists all plugins; take them from plugins/registry (test/host.Plugins)", path, number+1)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
