// Package validate finds mistakes in network lists, with line and column: unknown keys, values
// of the wrong type, values that a plugin refuses, and conflicts between two lists.
//
// Start at Rules.Files. The keys come from the plugins' registry, and the plugins' own parsers
// tell which values are valid.
package validate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// Problem is one mistake.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"` // from 1
	Column int    `json:"column"`
	// Path is the key: "plugins[0].ipam.ranges[0][0].subnet".
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
}

// String has the format of compilers' errors, so that editors can jump there.
func (p Problem) String() string {
	at := fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	if p.Path != "" {
		at += p.Path + ": "
	}
	return at + p.Text
}

// Rules are what the files are checked against.
type Rules struct {
	// Keys are the keys that one of Trestle's plugins reads; nil for any other plugin.
	Keys func(plugin string) []cni.Key
	// Ours are the names of Trestle's plugins.
	Ours []string
	// Parse returns the plugin's error for its configuration.
	Parse func(plugin string, r *cni.Request) error
	// Installed says whether runtimes find a plugin with that name. Versions are the versions
	// of CNI that it supports; nil if that is not known.
	Installed func(plugin string) bool
	Versions  func(plugin string) []string
	// Path are the directories in which runtimes look for plugins.
	Path []string
	// Runtimes are the installed runtimes.
	Runtimes []Runtime
}

// Runtime is an installed runtime, and the newest version of CNI whose results it reads.
type Runtime struct{ Name, Version, Newest string }

func (r Runtime) String() string { return r.Name + " " + r.Version }

// file is one list while it is checked.
type file struct {
	*document
	name string
	// list is nil if the file is not a list.
	list     *network.List
	problems []Problem
}

// Files checks each file by itself, and all of them together. A file that cannot be read is an
// error.
func (r Rules) Files(names []string) ([]Problem, error) {
	var files []*file
	for _, name := range names {
		data, err := rawfile.Read(name)
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

// at adds a problem at an offset.
func (f *file) at(offset int, path, format string, args ...any) {
	line, column := f.position(offset)
	f.problems = append(f.problems, Problem{File: f.name, Line: line, Column: column, Path: path, Text: fmt.Sprintf(format, args...)})
}

// on adds a problem at the value of a path, or at the nearest one above it.
func (f *file) on(path, format string, args ...any) { f.at(f.locate(path), path, format, args...) }

// syntax checks for plain JSON: runtimes accept no comments and no trailing commas.
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
		f.at(int(wrong.Offset)-1, "", "invalid JSON: %v; runtimes accept no comments, and no comma before a closing bracket", wrong)
	default:
		f.at(0, "", "invalid JSON: %v", cmp.Or(f.err, err))
	}
	return false
}
