package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPagesFindTheirSymbols: the files that a page names are there, and declare what
// stands behind the colon.
func TestPagesFindTheirSymbols(t *testing.T) {
	place := regexp.MustCompile("`((?:pkg|plugins|cmd|conflist|docs|test)/[^` :,]*)(?::([A-Za-z0-9_.]+))?`")
	declared := map[string]map[string]bool{}
	for page := range allHeadings(t) {
		for _, match := range place.FindAllStringSubmatch(readFile(t, page), -1) {
			file, symbol := filepath.Join("../..", match[1]), match[2]
			if strings.HasSuffix(file, "…") {
				continue // whatever is there
			}
			if found, err := filepath.Glob(file); err != nil || len(found) == 0 {
				t.Errorf("%s: there is no %s", page, match[1])
				continue
			}
			if symbol == "" {
				continue
			}
			if declared[file] == nil {
				declared[file] = declarations(t, file)
			}
			if !declared[file][symbol] {
				t.Errorf("%s: %s declares no %s", page, match[1], symbol)
			}
		}
	}
}

// TestReadmeNamesSymbols: the table "Where is …?" leads to a line, not to a file that
// one has to read.
func TestReadmeNamesSymbols(t *testing.T) {
	_, table, _ := strings.Cut(readFile(t, "../../README.md"), "## Where is …?")
	files := regexp.MustCompile("`[^` ]*\\.go(:[^`]*)?`").FindAllStringSubmatch(table, -1)
	if len(files) < 30 {
		t.Errorf("got %d files in the table, want all that it has", len(files))
	}
	for _, file := range files {
		if file[1] == "" && !strings.Contains(file[0], "_test.go") {
			t.Errorf("%s: say which symbol", file[0])
		}
	}
}

// declarations are the names that a file declares; a method's is Type.Method.
func declarations(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, declaration := range parsed.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			names[receiver(d)+d.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					names[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range s.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
	return names
}

// receiver is the type of a method's receiver and a dot, or nothing.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if generic, ok := of.(*ast.IndexExpr); ok {
		of = generic.X
	}
	name, ok := of.(*ast.Ident)
	if !ok {
		return ""
	}
	return name.Name + "."
}
