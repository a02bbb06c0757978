package ui

import (
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
)

// Progress shows the progress of a long operation: a bar on a terminal, a line for each
// tenth elsewhere, nothing for short ones.
type Progress struct {
	what        string
	total, done int
	p           *Printer
	writer      progress.Writer
	tracker     *progress.Tracker
}

// few is the number of steps below which no progress is shown.
const few = 20

// Progress starts an operation with total steps.
func (p *Printer) Progress(what string, total int) *Progress {
	progressing := &Progress{what: what, total: total, p: p}
	if total < few || p.JSON {
		return progressing
	}
	if _, ok := terminal(p.Err); !ok {
		return progressing
	}
	progressing.bar(p.Err, p.Colour)
	return progressing
}

func (g *Progress) bar(out io.Writer, colour bool) {
	w := progress.NewWriter()
	w.SetOutputWriter(out)
	w.SetAutoStop(false)
	w.SetUpdateFrequency(100 * time.Millisecond)
	w.SetTrackerLength(30)
	if colour && os.Getenv("NO_COLOR") == "" {
		w.SetStyle(progress.StyleBlocks)
	}
	g.tracker = &progress.Tracker{Message: g.what, Total: int64(g.total)}
	w.AppendTracker(g.tracker)
	g.writer = w
	go w.Render()
}

// Step counts one step.
func (g *Progress) Step() {
	g.done++
	switch {
	case g.tracker != nil:
		g.tracker.Increment(1)
	case g.total >= few && !g.p.JSON && g.done*10/g.total > (g.done-1)*10/g.total:
		g.p.Notef("%s: %d of %d", g.what, g.done, g.total)
	}
}

// Done ends the bar, so that later output begins on a new line.
func (g *Progress) Done() {
	if g.writer == nil {
		return
	}
	g.tracker.MarkAsDone()
	g.writer.Stop()
	for g.writer.IsRenderInProgress() {
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the library has no event for it
	}
}
