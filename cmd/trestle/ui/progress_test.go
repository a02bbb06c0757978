package ui

import (
	"bytes"
	"testing"
)

// TestProgress: without a terminal there is a line for each tenth, and none for short operations or
// with JSON.
func TestProgress(t *testing.T) {
	for _, test := range []struct {
		total int
		json  bool
		want  string
	}{
		{5, false, ""},
		{30, true, ""},
		{20, false, "go: 2 of 20\ngo: 4 of 20\ngo: 6 of 20\ngo: 8 of 20\ngo: 10 of 20\ngo: 12 of 20\ngo: 14 of 20\ngo: 16 of 20\ngo: 18 of 20\ngo: 20 of 20\n"},
	} {
		var out, errs bytes.Buffer
		p := New(&out, &errs, test.json)
		progress := p.Progress("go", test.total)
		for range test.total {
			progress.Step()
		}
		progress.Done()
		if errs.String() != test.want || out.String() != "" {
			t.Errorf("%d: got %q and %q, want %q", test.total, out.String(), errs.String(), test.want)
		}
	}
}
