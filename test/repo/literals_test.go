package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// longestLine is in columns, a tab counting four.
const longestLine = 140

// TestLiteralsFit: a struct literal that does not fit on a line has one field a line.
// A linter of line lengths would also cut the messages, which are to be found by grep,
// and the rows of tables.
func TestLiteralsFit(t *testing.T) {
	for _, root := range []string{"pkg", "plugins", "cmd", "conflist"} {
		err := filepath.WalkDir("../../"+root, func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				literalsFit(t, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func literalsFit(t *testing.T, path string) {
	t.Helper()
	set, text := token.NewFileSet(), readFile(t, path)
	file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text, "\n")
	ast.Inspect(file, func(node ast.Node) bool {
		literal, ok := node.(*ast.CompositeLit)
		if !ok || literal.Type == nil {
			return true // a row of a table has no type of its own
		}
		before := 0
		for _, element := range literal.Elts {
			field, isField := element.(*ast.KeyValueExpr)
			if !isField {
				continue
			}
			line := set.Position(field.Pos()).Line
			long := len(strings.ReplaceAll(lines[line-1], "\t", "    ")) > longestLine
			if _, isName := field.Key.(*ast.Ident); isName && long && line == before {
				t.Errorf("%s:%d: more than %d columns; put each field of the literal on a line of its own", path, line, longestLine)
				return false
			}
			before = line
		}
		return true
	})
}
