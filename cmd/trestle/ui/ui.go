// Package ui formats the answers of trestle: tables for people, fitted to the terminal, JSON
// for programs, and colour on terminals only. It knows nothing of networks. Start at New.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Printer writes a command's answer.
type Printer struct {
	Out io.Writer
	// Err receives progress and remarks, which are not part of the answer.
	Err io.Writer
	// JSON says that the answer is one JSON document.
	JSON bool
	// Width is the terminal's, in columns; 0 if Out is not a terminal: then nothing is
	// cut.
	Width int
	// Colour says that Out is a terminal and NO_COLOR is not set (no-color.org).
	Colour bool
}

// New is a Printer to out, fitted to it if it is a terminal.
func New(out, err io.Writer, asJSON bool) *Printer {
	p := &Printer{Out: out, Err: err, JSON: asJSON}
	if fd, ok := terminal(out); ok {
		p.Width = 80
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			p.Width = width
		}
		p.Colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return p
}

func terminal(w io.Writer) (fd int, ok bool) {
	file, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	return int(file.Fd()), term.IsTerminal(int(file.Fd()))
}

// Document writes v as indented JSON.
func (p *Printer) Document(v any) error {
	encoder := json.NewEncoder(p.Out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// Printf writes a part of the answer.
func (p *Printer) Printf(format string, args ...any) { fmt.Fprintf(p.Out, format, args...) }

// Notef writes a remark, which is not part of the answer.
func (p *Printer) Notef(format string, args ...any) { fmt.Fprintf(p.Err, format+"\n", args...) }

// Screen begins a view that replaces the one before; without a terminal it is appended.
func (p *Printer) Screen() {
	if p.Width > 0 && !p.JSON {
		p.Printf("\x1b[H\x1b[2J")
	}
}

// Tone is the meaning of a colour.
type Tone int

// The tones. The text says the same without them.
const (
	Plain Tone = iota
	Good
	Warning
	Bad
	Faint
	Strong
)

// Paint colours s, if Colour is set.
func (p *Printer) Paint(tone Tone, s string) string {
	colours := map[Tone]text.Color{Good: text.FgGreen, Warning: text.FgYellow, Bad: text.FgRed, Faint: text.Faint, Strong: text.Bold}
	colour, ok := colours[tone]
	if !ok || !p.Colour || s == "" {
		return s
	}
	return colour.EscapeSeq() + s + text.Reset.EscapeSeq()
}
