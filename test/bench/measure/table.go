package measure

import (
	"fmt"
	"strings"
)

// Table is what was measured.
type Table struct {
	Title, Note string
	Operations  []string
	Units       []Unit // of the operations; those that are missing are in ms
	Rounds      int
	Rows        []Row
}

// Row is one variant, with a summary for each operation.
type Row struct {
	Name  string
	Cells []Summary
}

func (t Table) unit(operation int) Unit {
	if operation < len(t.Units) && t.Units[operation] != (Unit{}) {
		return t.Units[operation]
	}
	return milliseconds
}

// name is the operation's, with its unit.
func (t Table) name(operation int) string {
	return t.Operations[operation] + " " + t.unit(operation).Name
}

// Text is the table for a terminal, nothing for the zero Table. ratio is how many times as much as in the first row.
func (t Table) Text() string {
	if t.Title == "" {
		return ""
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%-30s", t.Title)
	for i := range t.Operations {
		fmt.Fprintf(&text, " %9s %-16s %-6s", t.name(i), "(min..max)", "ratio")
	}
	for _, row := range t.Rows {
		fmt.Fprintf(&text, "\n  %-28s", row.Name)
		for i, cell := range row.Cells {
			u := t.unit(i)
			fmt.Fprintf(&text, " %9s %-16s %-6s", u.show(cell.Median), "("+u.span(cell)+")", t.ratio(i, cell))
		}
	}
	return text.String() + "\n\n"
}

// Markdown is the table for a page.
func (t Table) Markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "| n=%d |", t.Rounds)
	for i := range t.Operations {
		fmt.Fprintf(&text, " %s | min..max | ratio |", t.name(i))
	}
	text.WriteString("\n|---|" + strings.Repeat("--:|---|--:|", len(t.Operations)) + "\n")
	for _, row := range t.Rows {
		fmt.Fprintf(&text, "| %s |", row.Name)
		for i, cell := range row.Cells {
			u := t.unit(i)
			fmt.Fprintf(&text, " **%s** | %s | %s |", u.show(cell.Median), u.span(cell), t.ratio(i, cell))
		}
		text.WriteString("\n")
	}
	return text.String()
}

func (t Table) ratio(operation int, cell Summary) string {
	return t.unit(operation).ratio(cell.Median, t.Rows[0].Cells[operation].Median)
}

// Slug is the title as part of a file's name.
func (t Table) Slug() string {
	words := strings.FieldsFunc(strings.ToLower(t.Title), func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') })
	return strings.Join(words, "-")
}
