package measure

import (
	"fmt"
	"strconv"
	"time"
)

// Unit is what an operation's durations are shown in: as times of that length, or as how
// much was done in a second.
type Unit struct {
	Name string
	// Length is that of one, of a time.
	Length time.Duration
	// Amount is what one operation did, of a rate, in the unit.
	Amount float64
}

// The times. The zero Unit is that of milliseconds.
var (
	milliseconds = Unit{Name: "ms", Length: time.Millisecond}
	Microseconds = Unit{Name: "µs", Length: time.Microsecond}
)

// Rate is a unit of which an operation did so much.
func Rate(name string, amount float64) Unit { return Unit{Name: name, Amount: amount} }

// value is the duration in the unit; nothing was done in no time.
func (u Unit) value(d time.Duration) float64 {
	switch {
	case u.Length > 0:
		return float64(d) / float64(u.Length)
	case d <= 0:
		return 0
	}
	return u.Amount / d.Seconds()
}

// show has as many digits as say anything.
func (u Unit) show(d time.Duration) string {
	value := u.value(d)
	digits := 2
	switch {
	case value >= 100:
		digits = 0
	case value < 0.1:
		digits = 4
	}
	return strconv.FormatFloat(value, 'f', digits, 64)
}

// span is the smallest and the largest.
func (u Unit) span(s Summary) string {
	least, most := s.Min, s.Max
	if u.Length == 0 {
		least, most = most, least
	}
	return u.show(least) + ".." + u.show(most)
}

// ratio is how many times as much as the base it is.
func (u Unit) ratio(d, base time.Duration) string {
	if u.value(base) <= 0 {
		return "-"
	}
	return fmt.Sprintf("x%.1f", u.value(d)/u.value(base))
}
