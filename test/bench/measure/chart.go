package measure

import (
	"fmt"
	"html"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartWidth = 760
	nameWidth  = 250
	barHeight  = 16
	barStep    = 20
	gap        = 12
	valueWidth = 60
)

// colors are those of the operations; they can be told apart on white and on black.
var colors = []string{"#2f81f7", "#db6d28", "#3fb950", "#a371f7", "#e5534b", "#768390"}

// Chart draws the medians as bars, as SVG: one for each variant and operation, as long as
// it took, or as much as was done; those of one unit in proportion. Bars that would be too
// short to see have a pixel.
func (t Table) Chart() string {
	longest := map[string]float64{}
	for _, row := range t.Rows {
		for i, cell := range row.Cells {
			u := t.unit(i)
			longest[u.Name] = max(longest[u.Name], u.value(cell.Median))
		}
	}
	var body strings.Builder
	y := 52
	for _, row := range t.Rows {
		fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", nameWidth-8, y+barHeight-4, html.EscapeString(row.Name))
		for i, cell := range row.Cells {
			u := t.unit(i)
			width := 1
			if most := longest[u.Name]; most > 0 {
				width = max(1, int((chartWidth-nameWidth-valueWidth)*u.value(cell.Median)/most))
			}
			fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", nameWidth, y, width, barHeight, colors[i%len(colors)])
			fmt.Fprintf(&body, `<text x="%d" y="%d">%s</text>`+"\n", nameWidth+width+5, y+barHeight-4, u.show(cell.Median))
			y += barStep
		}
		y += gap
	}
	var text strings.Builder
	fmt.Fprintf(&text, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, y)
	text.WriteString("<style>text{fill:#1f2328}@media(prefers-color-scheme:dark){text{fill:#d1d7e0}}</style>\n")
	fmt.Fprintf(&text, `<text x="8" y="18" font-size="14" font-weight="bold">%s</text>`+"\n", html.EscapeString(t.Title))
	text.WriteString(t.legend())
	return text.String() + body.String() + "</svg>\n"
}

func (t Table) legend() string {
	var text strings.Builder
	x := 8
	for i := range t.Operations {
		name := t.name(i)
		fmt.Fprintf(&text, `<rect x="%d" y="28" width="10" height="10" fill="%s"/><text x="%d" y="38">%s</text>`+"\n", x, colors[i%len(colors)], x+14, html.EscapeString(name))
		x += 34 + 7*len(name)
	}
	return text.String()
}
