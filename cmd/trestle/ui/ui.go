// Package ui knows how trestle speaks: as tables for people, no wider than their
// terminal, as JSON for programs, in colour only where that is welcome. It knows
// nothing of networks.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Printer is where a command's answer goes.
type Printer struct {
	Out io.Writer
	// Err takes what is no answer: progress and remarks.
	Err io.Writer
	// JSON says that the answer shall be one JSON document.
	JSON bool
	// Width is that of the terminal, in columns; 0 where Out is none, and then nothing
	// is cut short.
	Width int
	// Colour says that Out is a terminal and NO_COLOR is not set (no-color.org).
	Colour bool
}

// New looks what kind of thing out is.
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

// Printf writes a line, or a part of one, of the answer.
func (p *Printer) Printf(format string, args ...any) { fmt.Fprintf(p.Out, format, args...) }

// Notef writes a remark, which is no part of the answer.
func (p *Printer) Notef(format string, args ...any) { fmt.Fprintf(p.Err, format+"\n", args...) }

// Screen begins a view that takes the place of the one before it; where there is no
// terminal it comes after it.
func (p *Printer) Screen() {
	if p.Width > 0 && !p.JSON {
		p.Printf("\x1b[H\x1b[2J")
	}
}

// Tone is what a colour says.
type Tone int

// The tones. A text has the same words without them.
const (
	Plain Tone = iota
	Good
	Warning
	Bad
	Faint
	Strong
)

// Paint gives s its tone's colour, where there are colours.
func (p *Printer) Paint(tone Tone, s string) string {
	colours := map[Tone]text.Color{Good: text.FgGreen, Warning: text.FgYellow, Bad: text.FgRed, Faint: text.Faint, Strong: text.Bold}
	colour, ok := colours[tone]
	if !ok || !p.Colour || s == "" {
		return s
	}
	return colour.EscapeSeq() + s + text.Reset.EscapeSeq()
}
