package ui

import (
	"fmt"
	"time"
)

// Bytes formats a number of bytes with at most five characters ("0B", "12kB", "3.4MB").
func Bytes(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	value, units := float64(n), "kMGTPE"
	for {
		value /= 1000
		if value < 999.5 || len(units) == 1 {
			break
		}
		units = units[1:]
	}
	if value < 9.95 {
		return fmt.Sprintf("%.1f%cB", value, units[0])
	}
	return fmt.Sprintf("%.0f%cB", value, units[0])
}

// Age formats the time since a moment as kubectl does ("12s", "5m", "3h", "12d"); "" if that
// is unknown.
func Age(since, now time.Time) string {
	if since.IsZero() {
		return ""
	}
	switch age := max(now.Sub(since), 0); {
	case age < 2*time.Minute:
		return fmt.Sprintf("%ds", age/time.Second)
	case age < 2*time.Hour:
		return fmt.Sprintf("%dm", age/time.Minute)
	case age < 48*time.Hour:
		return fmt.Sprintf("%dh", age/time.Hour)
	default:
		return fmt.Sprintf("%dd", age/(24*time.Hour))
	}
}

// Short shortens a container's id of 64 hex digits to 12; other names stay as they are.
func Short(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return id
}
