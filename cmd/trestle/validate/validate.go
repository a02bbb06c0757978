// Package validate knows the mistakes that people make in network lists, and where in
// the file they stand: keys that nobody reads, values of the wrong type, what a plugin
// would refuse, and what two lists cannot both have.
//
// Start at Rules.Files. Which keys there are is told by the plugins themselves, whose
// structs read them, and what their values may be by the plugins' own parsers.
package validate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// Problem is one mistake.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"` // from 1
	Column int    `json:"column"`
	// Path is the key that it is about: "plugins[0].ipam.ranges[0][0].subnet".
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
}

// String is as compilers have it, so that editors jump there.
func (p Problem) String() string {
	at := fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	if p.Path != "" {
		at += p.Path + ": "
	}
	return at + p.Text
}

// Rules are what the files are held against.
type Rules struct {
	// Keys are those that one of Trestle's plugins reads; nil for any other plugin.
	Keys func(plugin string) []cni.Key
	// Ours are the names of Trestle's plugins.
	Ours []string
	// Parse is what the plugin says of its configuration.
	Parse func(plugin string, r *cni.Request) error
	// Installed says whether runtimes find a plugin of that name, and Versions which
	// versions of CNI it knows; none: it does not say.
	Installed func(plugin string) bool
	Versions  func(plugin string) []string
	// Path is where runtimes look for plugins.
	Path []string
	// Runtimes are those that are installed.
	Runtimes []Runtime
}

// Runtime is one that is installed, and the newest version of CNI whose results it reads.
type Runtime struct{ Name, Version, Newest string }

func (r Runtime) String() string { return r.Name + " " + r.Version }

// file is one list on the way through the checks.
type file struct {
	*document
	name string
	// list is nil where the file is no list.
	list     *network.List
	problems []Problem
}

// Files looks at each file by itself, and at all of them together. The error is for one
// that cannot be read.
func (r Rules) Files(names []string) ([]Problem, error) {
	var files []*file
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f := &file{document: newDocument(data), name: name}
		files = append(files, f)
		if r.syntax(f) {
			r.list(f)
		}
	}
	together(files)
	all := []Problem{}
	for _, f := range files {
		slices.SortStableFunc(f.problems, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		all = append(all, slices.Compact(f.problems)...)
	}
	return all, nil
}

// at notes a problem at an offset.
func (f *file) at(offset int, path, format string, args ...any) {
	line, column := f.position(offset)
	f.problems = append(f.problems, Problem{File: f.name, Line: line, Column: column, Path: path, Text: fmt.Sprintf(format, args...)})
}

// on notes a problem of the value at a path, or of what is nearest above it.
func (f *file) on(path, format string, args ...any) { f.at(f.locate(path), path, format, args...) }

// syntax: runtimes read JSON, without comments and commas at the end.
func (r Rules) syntax(f *file) bool {
	if f.err == nil && f.root.IsStandard() {
		return true
	}
	var anything any
	var wrong *json.SyntaxError
	err := json.Unmarshal(f.data, &anything)
	switch {
	case len(f.data) == 0:
		f.at(0, "", "the file is empty")
	case asSyntax(err, &wrong):
		f.at(int(wrong.Offset)-1, "", "this is no JSON: %v; runtimes take no comments, and no comma before a bracket that closes", wrong)
	default:
		f.at(0, "", "this is no JSON: %v", cmp.Or(f.err, err))
	}
	return false
}
