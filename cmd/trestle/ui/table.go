package ui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Column is a column of a table.
type Column struct {
	Title string
	// Least is the width to which the column may be cut, with "…", to fit the table to
	// the terminal; 0: it is never cut.
	Least int
	// Optional columns are left out, from the last on, if the table does not fit
	// otherwise.
	Optional bool
	// Dear columns are cut only when no optional column is left: half an address is useless.
	Dear bool
	// Right aligns the column to the right, for numbers.
	Right bool
}

// Table is a table in the style of docker and kubectl: titles, columns two spaces apart.
// A cell may have several lines.
type Table struct {
	Columns []Column
	Rows    [][]string
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// List makes a cell of several lines.
func List(values ...string) string { return strings.Join(values, "\n") }

// gap is the space between two columns.
const gap = 2

// Table writes the table, fitted to the terminal if possible. Empty columns are left out.
func (p *Printer) Table(t Table) error {
	t, widths := t.withoutEmpty().fit(p.Width)
	writer := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", gap)
	style.Format.Header = text.FormatDefault
	writer.SetStyle(style)
	writer.SuppressTrailingSpaces()
	var titles table.Row
	var configs []table.ColumnConfig
	for i, column := range t.Columns {
		titles = append(titles, p.Paint(Strong, column.Title))
		config := table.ColumnConfig{Number: i + 1, WidthMax: widths[i], WidthMaxEnforcer: cut}
		if column.Right {
			config.Align, config.AlignHeader = text.AlignRight, text.AlignRight
		}
		configs = append(configs, config)
	}
	writer.AppendHeader(titles)
	writer.SetColumnConfigs(configs)
	for _, row := range t.Rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			cells[i] = cell
		}
		writer.AppendRow(cells)
	}
	_, err := fmt.Fprintln(p.Out, writer.Render())
	return err
}

// cut shortens each line of a cell.
func cut(cell string, width int) string {
	lines := strings.Split(cell, "\n")
	for i, line := range lines {
		lines[i] = text.Snip(line, width, "…")
	}
	return strings.Join(lines, "\n")
}

func (t Table) withoutEmpty() Table {
	return t.with(func(i int) bool {
		filled := func(row []string) bool { return row[i] != "" }
		return len(t.Rows) == 0 || slices.ContainsFunc(t.Rows, filled)
	})
}

// with is the table with the columns for which keep is true.
func (t Table) with(keep func(column int) bool) Table {
	slim := Table{Rows: make([][]string, len(t.Rows))}
	for i := range t.Columns {
		if !keep(i) {
			continue
		}
		slim.Columns = append(slim.Columns, t.Columns[i])
		for r, row := range t.Rows {
			slim.Rows[r] = append(slim.Rows[r], row[i])
		}
	}
	return slim
}

// fit makes the table no wider than the terminal (0: no terminal), and returns each column's
// width. It cuts columns that are not dear first, then leaves out optional columns, then cuts
// dear columns.
func (t Table) fit(width int) (Table, []int) {
	for {
		widths := t.widths()
		over := t.cut(widths, width, func(c Column) bool { return c.Least > 0 && !c.Dear })
		if width == 0 || over <= 0 {
			return t, widths
		}
		last := -1
		for i, column := range t.Columns {
			if column.Optional {
				last = i
			}
		}
		if last < 0 {
			t.cut(widths, width, func(c Column) bool { return c.Least > 0 })
			return t, widths
		}
		t = t.with(func(i int) bool { return i != last })
	}
}

// widths are the columns' natural widths.
func (t Table) widths() []int {
	widths := make([]int, len(t.Columns))
	for i, column := range t.Columns {
		widths[i] = text.LongestLineLen(column.Title)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], text.LongestLineLen(row[i]))
		}
	}
	return widths
}

// cut narrows the widest column that may be cut, again and again until all fit, and returns by
// how much the table is still too wide.
func (t Table) cut(widths []int, width int, may func(Column) bool) (over int) {
	over = -gap - width
	for _, w := range widths {
		over += w + gap
	}
	for ; width > 0 && over > 0; over-- {
		widest := -1
		for i, column := range t.Columns {
			least := max(column.Least, text.LongestLineLen(column.Title))
			if may(column) && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return over
		}
		widths[widest]--
	}
	return over
}
