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
	// Least is how narrow the column may become, longer text being cut and ended by
	// "…", for the table to fit the terminal; 0: never narrower than its text.
	Least int
	// Right aligns numbers.
	Right bool
}

// Table is a table as docker and kubectl have them: titles, and columns two spaces
// apart. A cell of several lines is a list.
type Table struct {
	Columns []Column
	Rows    [][]string
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// List makes a cell of several values.
func List(values ...string) string { return strings.Join(values, "\n") }

// gap is what stands between two columns.
const gap = 2

// Table writes the table, so that it fits the terminal if it can. Columns in which no
// row has anything are left out.
func (p *Printer) Table(t Table) error {
	t = t.withoutEmpty()
	widths := t.fit(p.Width)
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
	var kept []int
	for i := range t.Columns {
		filled := func(row []string) bool { return row[i] != "" }
		if len(t.Rows) == 0 || slices.ContainsFunc(t.Rows, filled) {
			kept = append(kept, i)
		}
	}
	slim := Table{}
	for _, i := range kept {
		slim.Columns = append(slim.Columns, t.Columns[i])
	}
	for _, row := range t.Rows {
		var cells []string
		for _, i := range kept {
			cells = append(cells, row[i])
		}
		slim.Rows = append(slim.Rows, cells)
	}
	return slim
}

// fit is how wide each column becomes: its text's width, less where the terminal
// (0: none) is narrower than the table, from the widest that may shrink.
func (t Table) fit(width int) []int {
	widths := make([]int, len(t.Columns))
	total := -gap
	for i, column := range t.Columns {
		widths[i] = text.LongestLineLen(column.Title)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], text.LongestLineLen(row[i]))
		}
		total += widths[i] + gap
	}
	for width > 0 && total > width {
		widest := -1
		for i, column := range t.Columns {
			least := max(column.Least, text.LongestLineLen(column.Title))
			if column.Least > 0 && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	return widths
}
