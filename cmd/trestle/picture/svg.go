package picture

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
)

// canvas is an SVG under construction. (svgo supports integers only, and does not escape
// attributes, which may contain names of containers.)
type canvas struct{ out strings.Builder }

// open writes an element's start tag; attributes are pairs of a name and a value.
func (c *canvas) open(element string, attributes ...any) {
	c.start(element, attributes)
	c.out.WriteString(">\n")
}

func (c *canvas) start(element string, attributes []any) {
	c.out.WriteString("<" + element)
	for i := 0; i+1 < len(attributes); i += 2 {
		value := fmt.Sprint(attributes[i+1])
		if v, ok := attributes[i+1].(float64); ok {
			value = coordinate(v)
		}
		if value != "" {
			fmt.Fprintf(&c.out, ` %s="%s"`, attributes[i], escape(value))
		}
	}
}

func (c *canvas) close(element string) { c.out.WriteString("</" + element + ">\n") }

// empty writes an element without content.
func (c *canvas) empty(element string, attributes ...any) {
	c.start(element, attributes)
	c.out.WriteString("/>\n")
}

func (c *canvas) box(class string, r rect, radius float64) {
	c.empty("rect", "class", class, "x", r.x, "y", r.y, "width", r.w, "height", r.h, "rx", radius)
}

func (c *canvas) line(class string, points ...point) {
	var d strings.Builder
	for i, p := range points {
		d.WriteString([]string{"M", "L"}[min(i, 1)] + coordinate(p.x) + " " + coordinate(p.y))
	}
	c.empty("path", "class", class, "d", d.String())
}

// text writes text that begins at a point on its base line.
func (c *canvas) text(class string, at point, content string) {
	c.start("text", []any{"class", class, "x", at.x, "y", at.y})
	c.out.WriteString(">" + escape(content) + "</text>\n")
}

// textEnd writes text that ends at a point on its base line.
func (c *canvas) textEnd(class string, at point, content string) {
	c.start("text", []any{"class", class, "x", at.x, "y", at.y, "text-anchor", "end"})
	c.out.WriteString(">" + escape(content) + "</text>\n")
}

// title is the tooltip of the element around it.
func (c *canvas) title(content string) { c.out.WriteString("<title>" + escape(content) + "</title>\n") }

// wrapped is the drawing as a document with that size.
func (c *canvas) wrapped(size rect, label string) string {
	var doc canvas
	doc.open("svg", "xmlns", "http://www.w3.org/2000/svg", "width", size.w, "height", size.h,
		"viewBox", fmt.Sprintf("0 0 %s %s", coordinate(size.w), coordinate(size.h)), "role", "img", "aria-label", label)
	doc.out.WriteString("<style>" + styles() + "</style>\n")
	doc.box("page", size, 0)
	doc.out.WriteString(c.out.String())
	doc.close("svg")
	return doc.out.String()
}

type point struct{ x, y float64 }

// rect has its upper left corner at x, y.
type rect struct{ x, y, w, h float64 }

func coordinate(v float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
}

func escape(s string) string {
	var out strings.Builder
	if xml.EscapeText(&out, []byte(s)) != nil {
		return "" // a strings.Builder never fails
	}
	return out.String()
}

// Font sizes. Widths are those of DejaVu, the widest font in the style sheet: text that fits in
// it fits in any of them.
const (
	monoEm  = 0.605
	smallPx = 10.5
	textPx  = 11.5
	namePx  = 13
	headPx  = 16
)

// monoWidth is the width of text in class "mono".
func monoWidth(s string, size float64) float64 { return float64(len([]rune(s))) * size * monoEm }

// sansWidth is the width of proportional text.
func sansWidth(s string, size float64) float64 {
	width := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune("ijlI.,:;'|!()[] -/", r):
			width += 0.38
		case strings.ContainsRune("mwMW@%…→", r):
			width++
		case r >= 'A' && r <= 'Z':
			width += 0.74
		default:
			width += 0.64
		}
	}
	return width * size
}

// fit shortens s to a width, in the middle, since names and addresses differ at their ends.
func fit(s string, width float64, measure func(string) float64) string {
	runes := []rune(s)
	for cut := len(runes) - 1; measure(s) > width && cut > 1; cut-- {
		head := (cut + 1) / 2
		s = string(runes[:head]) + "…" + string(runes[len(runes)-(cut-head):])
	}
	return s
}

func fitMono(s string, width, size float64) string {
	return fit(s, width, func(s string) float64 { return monoWidth(s, size) })
}

func fitSans(s string, width, size float64) string {
	return fit(s, width, func(s string) float64 { return sansWidth(s, size) })
}

// flow places boxes side by side in rows of at most that width. It returns each box's position,
// and the height of all rows.
func flow(widths []float64, width, gap, rowHeight float64) (at []point, height float64) {
	var p point
	for i, w := range widths {
		if i > 0 && p.x+w > width {
			p = point{0, p.y + rowHeight}
		}
		at = append(at, p)
		p.x += w + gap
	}
	if len(widths) == 0 {
		return nil, 0
	}
	return at, p.y + rowHeight
}

// colour is a colour on light and on dark backgrounds.
type colour struct{ light, dark string }

// The palette.
var (
	ink     = colour{"#1f2933", "#e4e7eb"}
	faint   = colour{"#66727f", "#98a4b0"}
	paper   = colour{"#f5f7f9", "#12171d"}
	panel   = colour{"#ffffff", "#1a2129"}
	card    = colour{"#f5f7f9", "#222b35"}
	edge    = colour{"#d5dbe1", "#36414d"}
	rail    = colour{"#9aa7b4", "#5b6875"}
	accent  = colour{"#2a6f97", "#6db3dc"}
	wash    = colour{"#e3eef5", "#203646"}
	good    = colour{"#3a9a6b", "#4fb583"}
	bad     = colour{"#c8503c", "#e5705b"}
	warn    = colour{"#c98a1b", "#dfa83d"}
	goodBar = colour{"#8cc4a8", "#3c7d5f"}
)

// rules are the style sheet's colours.
func rules() []struct {
	selector, property string
	colour             colour
} {
	return []struct {
		selector, property string
		colour             colour
	}{
		{".page", "fill", paper},
		{".panel", "fill", panel},
		{".panel,.card,.chip", "stroke", edge},
		{".card,.chip", "fill", card},
		{".ghost", "stroke", rail},
		{".bar", "fill", wash},
		{".rail,.drop", "stroke", rail},
		{"text", "fill", ink},
		{".faint", "fill", faint},
		{".accent", "fill", accent},
		{".badge", "fill", wash},
		{".track", "fill", edge},
		{".used", "fill", accent},
		{".alive", "fill", good},
		{".dead", "fill", bad},
		{".unknown", "fill", warn},
		{".dot.ring", "stroke", panel},
		{".cell.alive", "fill", goodBar},
		{".cell.publishes", "stroke", accent},
		{".free", "fill", edge},
		{".leased", "fill", accent},
		{".reserved", "fill", rail},
	}
}

// styles is the style sheet. Its colours are written out for both backgrounds, since not all SVG
// renderers support variables.
func styles() string {
	var light, dark strings.Builder
	for _, r := range rules() {
		fmt.Fprintf(&light, "%s{%s:%s}\n", r.selector, r.property, r.colour.light)
		fmt.Fprintf(&dark, "%s{%s:%s}\n", r.selector, r.property, r.colour.dark)
	}
	return `
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;font-size:11.5px}
.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.head{font-size:16px;font-weight:600}
.name{font-size:13px;font-weight:600}
.small{font-size:10.5px}
.panel,.card,.chip{stroke-width:1}
.ghost{stroke-dasharray:4 3}
.rail,.drop{fill:none;stroke-width:1.5;stroke-linecap:round}
.dashed{stroke-dasharray:2 5}
.cell.publishes{stroke-width:2}
` + light.String() + "@media (prefers-color-scheme:dark){\n" + dark.String() + "}\n"
}
