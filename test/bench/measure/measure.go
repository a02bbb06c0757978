// Package measure times variants of the same work side by side: round by round,
// each once, so that whatever disturbs the machine disturbs them all.
package measure

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Section is one table: variants of the same operations.
type Section struct {
	Title string
	// Operations name what a round of each variant times, in order ("ADD", "DEL").
	Operations []string
	// Rounds is how often it is done where that is not for the caller to say: it takes long.
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

// Run goes through the rounds, after one that does not count, and writes the table.
func (s Section) Run(rounds int, to io.Writer) error {
	variants := s.Setup()
	if s.Rounds > 0 {
		rounds = s.Rounds
	}
	samples := make([][][]time.Duration, len(variants)) // by variant and operation
	for round := range rounds + 1 {
		for i, variant := range variants {
			time.Sleep(Pause)
			took, err := variant.Round()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", s.Title, variant.Name, err)
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
	_, err := io.WriteString(to, s.table(variants, samples))
	return err
}

func (s Section) table(variants []Variant, samples [][][]time.Duration) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%-30s", s.Title)
	for _, operation := range s.Operations {
		fmt.Fprintf(&text, " %9s %-16s %-6s", operation+" ms", "(min..max)", "ratio")
	}
	var base []Summary
	for i, variant := range variants {
		fmt.Fprintf(&text, "\n  %-28s", variant.Name)
		for operation, durations := range samples[i] {
			summary := Summarize(durations)
			if i == 0 {
				base = append(base, summary)
			}
			text.WriteString(summary.cells(base[operation]))
		}
	}
	return text.String() + "\n\n"
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

func (s Summary) cells(base Summary) string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	ratio := "-"
	if base.Median > 0 {
		ratio = fmt.Sprintf("x%.1f", float64(s.Median)/float64(base.Median))
	}
	return fmt.Sprintf(" %9.2f %-16s %-6s", ms(s.Median), fmt.Sprintf("(%.2f..%.2f)", ms(s.Min), ms(s.Max)), ratio)
}
