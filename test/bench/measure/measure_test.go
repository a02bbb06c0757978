package measure

import (
	"encoding/xml"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []time.Duration
		want Summary
	}{
		{"none", nil, Summary{}},
		{"one", []time.Duration{7}, Summary{7, 7, 7}},
		{"odd", []time.Duration{9, 1, 5}, Summary{5, 1, 9}},
		{"even", []time.Duration{8, 2, 4, 100}, Summary{6, 2, 100}},
	} {
		if got := Summarize(test.in); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestRunInterleavesAndDropsTheFirstRound(t *testing.T) {
	var order []string
	variant := func(name string, took ...time.Duration) Variant {
		return Variant{name, func() ([]time.Duration, error) {
			order = append(order, name)
			d := took[0]
			if len(took) > 1 {
				took = took[1:]
			}
			return []time.Duration{d}, nil
		}}
	}
	var table strings.Builder
	section := Section{Title: "work", Operations: []string{"ADD"}, Setup: func() []Variant {
		return []Variant{variant("ours", time.Hour, 2*time.Millisecond), variant("theirs", time.Hour, 5*time.Millisecond)}
	}}
	if err := section.Run(2, &table); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ours", "theirs", "ours", "theirs", "ours", "theirs"}; !slices.Equal(order, want) {
		t.Errorf("got order %v, want %v", order, want)
	}
	want := [][]string{
		{"work", "ADD", "ms", "(min..max)", "ratio"},
		{"ours", "2.00", "(2.00..2.00)", "x1.0"},
		{"theirs", "5.00", "(5.00..5.00)", "x2.5"},
	}
	for i, line := range strings.Split(strings.TrimSpace(table.String()), "\n") {
		if got := strings.Fields(line); !slices.Equal(got, want[i]) {
			t.Errorf("line %d: got %v, want %v", i, got, want[i])
		}
	}
}

func TestRunStopsAtAnError(t *testing.T) {
	broken := errors.New("broken")
	section := Section{Title: "work", Setup: func() []Variant {
		return []Variant{{"ours", func() ([]time.Duration, error) { return nil, broken }}}
	}}
	if err := section.Run(1, &strings.Builder{}); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestMarkdownAndChart(t *testing.T) {
	table := Table{Title: "ADD & DEL, 1 port", Operations: []string{"ADD"}, Rounds: 3, Rows: []Row{
		{"ours", []Summary{{2 * time.Millisecond, time.Millisecond, 3 * time.Millisecond}}},
		{"<theirs>", []Summary{{100 * time.Millisecond, 90 * time.Millisecond, 110 * time.Millisecond}}},
	}}
	want := "| n=3 | ADD ms | min..max | ratio |\n|---|--:|---|--:|\n| ours | **2.00** | 1.00..3.00 | x1.0 |\n| <theirs> | **100** | 90.00..110 | x50.0 |\n"
	if got := table.Markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	chart := table.Chart()
	var parsed struct {
		Rects []struct {
			Width int `xml:"width,attr"`
		} `xml:"rect"`
	}
	if err := xml.Unmarshal([]byte(chart), &parsed); err != nil {
		t.Fatalf("the chart is no XML: %v", err)
	}
	if n := len(parsed.Rects); n != 3 || parsed.Rects[1].Width*50/parsed.Rects[2].Width != 1 {
		t.Errorf("got bars %v, want one of the operations, and two in proportion", parsed.Rects)
	}
	if got := table.Slug(); got != "add-del-1-port" {
		t.Errorf("got slug %s", got)
	}
}

func TestUnits(t *testing.T) {
	table := Table{
		Title: "flow", Operations: []string{"stream", "round trip", "all"}, Units: []Unit{Rate("Gbit/s", 8), Microseconds}, Rounds: 1, Rows: []Row{
			{"ours", []Summary{{time.Second, 500 * time.Millisecond, 2 * time.Second}, {50 * time.Microsecond, 40 * time.Microsecond, 60 * time.Microsecond}, {time.Second, time.Second, time.Second}}},
			{"theirs", []Summary{{2 * time.Second, 2 * time.Second, 4 * time.Second}, {time.Millisecond, time.Millisecond, time.Millisecond}, {}}},
		},
	}
	want := "| n=1 | stream Gbit/s | min..max | ratio | round trip µs | min..max | ratio | all ms | min..max | ratio |\n|---|--:|---|--:|--:|---|--:|--:|---|--:|\n" +
		"| ours | **8.00** | 4.00..16.00 | x1.0 | **50.00** | 40.00..60.00 | x1.0 | **1000** | 1000..1000 | x1.0 |\n" +
		"| theirs | **4.00** | 2.00..4.00 | x0.5 | **1000** | 1000..1000 | x20.0 | **0.0000** | 0.0000..0.0000 | x0.0 |\n"
	if got := table.Markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var widths []int
	var parsed struct {
		Rects []struct {
			Width int `xml:"width,attr"`
		} `xml:"rect"`
	}
	if err := xml.Unmarshal([]byte(table.Chart()), &parsed); err != nil {
		t.Fatal(err)
	}
	for _, r := range parsed.Rects[3:] {
		widths = append(widths, r.Width)
	}
	if most := chartWidth - nameWidth - valueWidth; !slices.Equal(widths, []int{most, most / 20, most, most / 2, most, 1}) {
		t.Errorf("got bars %v, want those of each unit in proportion, up to %d", widths, most)
	}
}
