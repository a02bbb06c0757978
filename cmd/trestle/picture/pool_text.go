package picture

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/text"
)

// glyph is a cell in the terminal.
type glyph struct {
	sign string
	tone Tone
	word string
}

// glyphs are the looks' glyphs. Without colours their signs still differ.
func glyphs() map[look]glyph {
	return map[look]glyph{
		lookFree:     {"·", Faint, "free"},
		lookLeased1:  {"░", Good, "leased in part"},
		lookLeased2:  {"▒", Good, "leased in part"},
		lookLeased3:  {"▓", Good, "leased in part"},
		lookLeased:   {"█", Good, "leased"},
		lookDead:     {"×", Bad, "dead"},
		lookReserved: {"-", Warning, "reserved"},
	}
}

// Text is the map for a terminal with that width; 0 stands for 80 columns.
func (m PoolMap) Text(width int, paint func(Tone, string) string) string {
	if paint == nil {
		paint = func(_ Tone, s string) string { return s }
	}
	if width == 0 {
		width = 80
	}
	perRow, labels := m.rows(width)
	var out strings.Builder
	write := func(line string) { out.WriteString(text.Snip(strings.TrimRight(line, " "), width, "…") + "\n") }
	write(paint(Strong, m.Network) + "  " + m.Subnet.String() + "  " + m.title())
	write(paint(Faint, m.scale()))
	if m.Unread {
		return out.String()
	}
	n := 0
	for row := range slices.Chunk(m.Cells, perRow) {
		write(text.Pad(labels[n], labelWidth(labels), ' ') + " " + paintRow(row, paint))
		n++
	}
	write(m.legend(paint))
	return out.String()
}

// rows returns the number of cells in a row, a power of two that fits the width, and the address
// before each row.
func (m PoolMap) rows(width int) (perRow int, labels []string) {
	for perRow = 64; ; perRow /= 2 {
		labels = nil
		for row := range slices.Chunk(m.Cells, perRow) {
			labels = append(labels, row[0].Block.Addr().String())
		}
		if perRow <= 16 || labelWidth(labels)+1+perRow <= width {
			return perRow, labels
		}
	}
}

func labelWidth(labels []string) int {
	width := 0
	for _, label := range labels {
		width = max(width, utf8.RuneCountInString(label))
	}
	return width
}

// paintRow paints a row of cells, adjacent ones of the same tone together.
func paintRow(row []Cell, paint func(Tone, string) string) string {
	all := glyphs()
	var out, same strings.Builder
	tone := Plain
	flush := func() {
		if same.Len() > 0 {
			out.WriteString(paint(tone, same.String()))
			same.Reset()
		}
	}
	for _, c := range row {
		g := all[c.looksLike()]
		if g.tone != tone {
			flush()
			tone = g.tone
		}
		same.WriteString(g.sign)
	}
	flush()
	return out.String()
}

// looks are the looks of the map's cells, sorted, each once.
func (m PoolMap) looks() []look {
	var looks []look
	for _, c := range m.Cells {
		if l := c.looksLike(); !slices.Contains(looks, l) {
			looks = append(looks, l)
		}
	}
	slices.Sort(looks)
	return looks
}

func (m PoolMap) legend(paint func(Tone, string) string) string {
	line, word := "", ""
	for _, l := range m.looks() {
		g := glyphs()[l]
		if word != "" && g.word != word {
			line += " " + word + "   "
		}
		line += paint(g.tone, g.sign)
		word = g.word
	}
	return line + " " + word
}
