package ui

import (
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
)

// widest is the greatest width of prose, and its width without a terminal.
const widest = 80

// Wrap breaks prose into lines that begin with indent.
func (p *Printer) Wrap(indent, prose string) string {
	width := p.Width
	if width == 0 || width > widest {
		width = widest
	}
	lines := strings.Split(text.WrapSoft(prose, max(20, width-len(indent))), "\n")
	for i, line := range lines {
		lines[i] = indent + strings.TrimRight(line, " ") + "\n"
	}
	return strings.Join(lines, "")
}
