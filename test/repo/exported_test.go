package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestExportedNamesAreCalled: what a package under pkg/ or plugins/ exports, another one of
// ours names, be it the package's own tests from outside. A constant stands with its type or its group, and a
// type also where something that is exported has it.
func TestExportedNamesAreCalled(t *testing.T) {
	packages := parseAll(t)
	named := map[string]map[string]bool{}
	for dir, files := range packages {
		for _, file := range files {
			nameOthers(packages, dir, file, named)
		}
	}
	for dir, files := range packages {
		if !strings.HasPrefix(dir, "pkg/") && !strings.HasPrefix(dir, "plugins/") {
			continue
		}
		shown := map[string]bool{} // types that exported names have
		for _, file := range files {
			if file.isTest {
				continue
			}
			for _, declaration := range file.Decls {
				showTypes(declaration, shown)
			}
		}
		for _, file := range files {
			if file.isTest || file.Name.Name == "main" {
				continue
			}
			for _, name := range exported(file.File) {
				if !slices.ContainsFunc(name.any, func(n string) bool { return named[dir][n] || name.isType && shown[n] }) {
					t.Errorf("%s exports %s, which no other package of ours names: unexport it, or take it out", dir, name.any[0])
				}
			}
		}
	}
}

// source is one file of a package.
type source struct {
	*ast.File
	isTest bool
}

// parseAll is all code of ours, by its folder.
func parseAll(t *testing.T) map[string][]source {
	t.Helper()
	packages := map[string][]source{}
	set := token.NewFileSet()
	for _, top := range []string{"pkg", "plugins", "cmd", "conflist", "test"} {
		err := filepath.WalkDir(filepath.Join("../..", top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" {
				return err
			}
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			dir := strings.TrimPrefix(filepath.Dir(path), "../../")
			packages[dir] = append(packages[dir], source{file, strings.HasSuffix(path, "_test.go")})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return packages
}

// nameOthers adds what the file names of other packages, or as an outside test of its own.
func nameOthers(packages map[string][]source, dir string, file source, named map[string]map[string]bool) {
	imported := map[string]string{}
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value) // the parser has read it
		from, ours := strings.CutPrefix(path, module)
		if !ours || len(packages[from]) == 0 || from == dir && !strings.HasSuffix(file.Name.Name, "_test") {
			continue
		}
		name := strings.TrimSuffix(packages[from][0].Name.Name, "_test")
		if spec.Name != nil {
			name = spec.Name.Name
		}
		imported[name] = from
	}
	ast.Inspect(file.File, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && imported[x.Name] != "" {
				from := imported[x.Name]
				if named[from] == nil {
					named[from] = map[string]bool{}
				}
				named[from][selector.Sel.Name] = true
			}
		}
		return true
	})
}

// exportedName is one of which any of its names will do.
type exportedName struct {
	any    []string
	isType bool
}

func exported(file *ast.File) (names []exportedName) {
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.IsExported() {
				names = append(names, exportedName{any: []string{d.Name.Name}})
			}
		case *ast.GenDecl:
			var group []string
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						names = append(names, exportedName{[]string{s.Name.Name}, true})
					}
				case *ast.ValueSpec:
					for _, name := range s.Names {
						if !name.IsExported() {
							continue
						}
						if d.Tok == token.VAR {
							names = append(names, exportedName{any: []string{name.Name}})
						} else {
							group = append(group, name.Name)
						}
					}
					if of, ok := s.Type.(*ast.Ident); ok && len(group) > 0 {
						group = append(group, of.Name)
					}
				}
			}
			if len(group) > 0 {
				names = append(names, exportedName{any: group})
			}
		}
	}
	return names
}

// showTypes adds the types that the declaration has where others see them: in signatures
// of functions and methods, in fields, in variables.
func showTypes(declaration ast.Decl, shown map[string]bool) {
	var add func(ast.Node)
	add = func(n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.Ident:
				shown[x.Name] = true
			case *ast.StructType:
				for _, field := range x.Fields.List {
					if len(field.Names) == 0 || slices.ContainsFunc(field.Names, (*ast.Ident).IsExported) {
						add(field.Type)
					}
				}
				return false
			}
			return true
		})
	}
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() {
			return
		}
		add(d.Type)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					add(s.Type)
				}
			case *ast.ValueSpec:
				if s.Type != nil && s.Names[0].IsExported() {
					add(s.Type)
				}
			}
		}
	}
}
