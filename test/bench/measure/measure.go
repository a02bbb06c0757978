// Package measure times variants of the same work side by side: round by round,
// each once, so that whatever disturbs the machine disturbs them all.
package measure

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Section is one table: variants of the same operations.
type Section struct {
	Title string
	Note  string // what else a reader must know
	// Operations name what a round of each variant times, in order ("ADD", "DEL").
	Operations []string
	// Units are those that the operations are shown in, where that is not ms.
	Units []Unit
	// Rounds is how often it is done at the most, where it takes long.
	Rounds int
	// Setup prepares the variants. The ratio column compares with the first.
	Setup func() []Variant
}

// Variant is one way to do it.
type Variant struct {
	Name string
	// Round does each operation once and returns how long each took. What it does
	// between them is not counted.
	Round func() ([]time.Duration, error)
}

// Pause lets the kernel finish what it does after an operation has returned
// (RCU grace periods, the freeing of namespaces).
const Pause = 25 * time.Millisecond

// Run measures, and writes the table as text.
func (s Section) Run(rounds int, to io.Writer) error {
	table, err := s.Measure(rounds)
	if err != nil {
		return err
	}
	_, err = io.WriteString(to, table.Text())
	return err
}

// Measure goes through the rounds, after one that does not count.
func (s Section) Measure(rounds int) (Table, error) {
	variants := s.Setup()
	if s.Rounds > 0 {
		rounds = min(rounds, s.Rounds)
	}
	samples := make([][][]time.Duration, len(variants)) // by variant and operation
	for round := range rounds + 1 {
		for i, variant := range variants {
			time.Sleep(Pause)
			took, err := variant.Round()
			if err != nil {
				return Table{}, fmt.Errorf("%s: %s: %w", s.Title, variant.Name, err)
			}
			if round == 0 {
				samples[i] = make([][]time.Duration, len(took))
				continue
			}
			for operation, t := range took {
				samples[i][operation] = append(samples[i][operation], t)
			}
		}
	}
	table := Table{Title: s.Title, Note: s.Note, Operations: s.Operations, Units: s.Units, Rounds: rounds}
	for i, variant := range variants {
		row := Row{Name: variant.Name}
		for _, durations := range samples[i] {
			row.Cells = append(row.Cells, Summarize(durations))
		}
		table.Rows = append(table.Rows, row)
	}
	return table, nil
}

// Summary is what stands in the table for one operation of one variant.
type Summary struct{ Median, Min, Max time.Duration }

// Summarize returns the zero Summary for no durations.
func Summarize(durations []time.Duration) Summary {
	if len(durations) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(durations))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return Summary{median, sorted[0], sorted[len(sorted)-1]}
}
