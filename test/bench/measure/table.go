package measure

import (
	"fmt"
	"strings"
	"time"
)

// Table is what was measured.
type Table struct {
	Title, Note string
	Operations  []string
	Rounds      int
	Rows        []Row
}

// Row is one variant, with a summary for each operation.
type Row struct {
	Name  string
	Cells []Summary
}

// Text is the table for a terminal, nothing for the zero Table. ratio is how many times as long as in the first row.
func (t Table) Text() string {
	if t.Title == "" {
		return ""
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%-30s", t.Title)
	for _, operation := range t.Operations {
		fmt.Fprintf(&text, " %9s %-16s %-6s", operation+" ms", "(min..max)", "ratio")
	}
	for _, row := range t.Rows {
		fmt.Fprintf(&text, "\n  %-28s", row.Name)
		for i, cell := range row.Cells {
			fmt.Fprintf(&text, " %9s %-16s %-6s", ms(cell.Median), "("+cell.span()+")", t.ratio(i, cell))
		}
	}
	return text.String() + "\n\n"
}

// Markdown is the table for a page.
func (t Table) Markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "| n=%d, ms |", t.Rounds)
	for _, operation := range t.Operations {
		fmt.Fprintf(&text, " %s | min..max | ratio |", operation)
	}
	text.WriteString("\n|---|" + strings.Repeat("--:|---|--:|", len(t.Operations)) + "\n")
	for _, row := range t.Rows {
		fmt.Fprintf(&text, "| %s |", row.Name)
		for i, cell := range row.Cells {
			fmt.Fprintf(&text, " **%s** | %s | %s |", ms(cell.Median), cell.span(), t.ratio(i, cell))
		}
		text.WriteString("\n")
	}
	return text.String()
}

func (t Table) ratio(operation int, cell Summary) string {
	base := t.Rows[0].Cells[operation].Median
	if base <= 0 {
		return "-"
	}
	return fmt.Sprintf("x%.1f", float64(cell.Median)/float64(base))
}

func (s Summary) span() string { return ms(s.Min) + ".." + ms(s.Max) }

// ms has as many digits as say anything.
func ms(d time.Duration) string {
	value := float64(d) / float64(time.Millisecond)
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value < 0.1:
		return fmt.Sprintf("%.4f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

// Slug is the title as part of a file's name.
func (t Table) Slug() string {
	words := strings.FieldsFunc(strings.ToLower(t.Title), func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') })
	return strings.Join(words, "-")
}
