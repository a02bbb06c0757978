package repo

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
	"github.com/trestle-cni/trestle/test/golden"
	"github.com/trestle-cni/trestle/test/host"
)

// keyTable is a table of keys in a page, between two remarks that its readers do not
// see: those of a plugin, or of these only those that are named, or without another's.
var keyTable = regexp.MustCompile(`(?s)(<!-- keys of ([a-z-]+)(?: (only|without) ([^>]*?))? -->\n).*?(<!-- end of keys -->)`)

// TestPagesHaveTheKeys: the tables of keys in the pages are those that the plugins
// read. `make docs` writes them.
func TestPagesHaveTheKeys(t *testing.T) {
	seen := map[string]bool{}
	for page := range allHeadings(t) {
		text := readFile(t, page)
		want := keyTable.ReplaceAllStringFunc(text, func(table string) string {
			part := keyTable.FindStringSubmatch(table)
			keys := shownKeys(part[2], part[3], strings.Fields(part[4]))
			for _, key := range keys {
				seen[part[2]+" "+key.Path] = true
			}
			return part[1] + markdown(keys) + part[5]
		})
		if want == text {
			continue
		}
		if *golden.Update {
			if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Errorf("%s: its tables of keys are not those that the plugins read; `make docs` writes them", page)
	}
	for _, plugin := range host.Plugins() {
		for _, key := range shownKeys(plugin, "", nil) {
			if !seen[plugin+" "+key.Path] && !seen["portmap "+key.Path] {
				t.Errorf("no page shows the key %s of %s", key.Path, plugin)
			}
		}
	}
}

// TestKeysAreDescribed: each key that a plugin reads has a description, or one of
// those above it has; and what is described is read.
func TestKeysAreDescribed(t *testing.T) {
	for _, plugin := range host.Plugins() {
		keys := registry.Keys(plugin)
		for _, key := range keys {
			if key.Type == "" {
				t.Errorf("%s describes %s, which it does not read", plugin, key.Path)
			}
			if key.Doc == "" && !isDescribed(keys, key.Path) {
				t.Errorf("%s reads %s, and describes it nowhere", plugin, key.Path)
			}
		}
	}
	if registry.Keys("macvlan") != nil {
		t.Error("got keys of a plugin that is not ours")
	}
}

// isDescribed says whether a key above the path has a description, or all below do.
func isDescribed(keys []cni.Key, path string) bool {
	below := false
	for _, key := range keys {
		if key.Doc != "" && isBelow(path, key.Path) {
			return true
		}
		below = below || isBelow(key.Path, path)
	}
	return below // each of which is asked by itself
}

func isBelow(path, other string) bool {
	rest, ok := strings.CutPrefix(path, other)
	return ok && rest != "" && (rest[0] == '.' || rest[0] == '[')
}

// shownKeys are those of a plugin that a table shows; loopback has but the protocol's.
func shownKeys(plugin, how string, words []string) []cni.Key {
	var hidden []cni.Key
	if plugin != "loopback" {
		hidden = cni.ProtocolKeys()
	}
	if how == "without" {
		for _, other := range words {
			hidden = append(hidden, registry.Keys(other)...)
		}
	}
	isHidden := map[string]bool{}
	for _, key := range hidden {
		isHidden[key.Path] = true
	}
	return slices.DeleteFunc(registry.Keys(plugin), func(key cni.Key) bool {
		named := func(path string) bool { return key.Path == path || isBelow(key.Path, path) }
		return key.Doc == "" || isHidden[key.Path] || how == "only" && !slices.ContainsFunc(words, named)
	})
}

func markdown(keys []cni.Key) string {
	var table strings.Builder
	fmt.Fprint(&table, "\n| key | type | default | meaning |\n|---|---|---|---|\n")
	for _, key := range keys {
		name, otherwise := "`"+key.Path+"`", key.Default
		if key.Ours {
			name += " **+**"
		}
		if otherwise == "" {
			otherwise = "–"
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", name, key.Type, otherwise, strings.ReplaceAll(key.Doc, "|", `\|`))
	}
	fmt.Fprintln(&table)
	return table.String()
}

// TestPluginsAreWhole: one whose function is forgotten panics at the first who calls it,
// and one without a test of its keys may read some that CHECK does not know.
func TestPluginsAreWhole(t *testing.T) {
	files, err := filepath.Glob("../*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, file := range files {
		tests.WriteString(readFile(t, file))
	}
	for name, plugin := range registry.Plugins() {
		whole := reflect.ValueOf(plugin())
		for i := range whole.NumField() {
			if field := whole.Field(i); field.Kind() == reflect.Func && field.IsNil() {
				t.Errorf("%s has no %s", name, whole.Type().Field(i).Name)
			}
		}
		if plugin().Keys != nil && len(plugin().Keys()) > 0 && !strings.Contains(tests.String(), fmt.Sprintf("host.AssertKeys(t, %q, ", name)) {
			t.Errorf("no test asks what CHECK finds of each key of %s: call host.AssertKeys, as in test/static", name)
		}
	}
}
