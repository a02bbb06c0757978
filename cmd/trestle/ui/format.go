package ui

import (
	"fmt"
	"time"
)

// Bytes is an amount of bytes in at most five characters ("0B", "12kB", "3.4MB").
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

// Age is a time span in kubectl's format ("12s", "5m", "3h", "12d"); "" if it is unknown.
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

// Short is the beginning of a container's id of 64 hex digits; other names are not
// shortened.
func Short(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return id
}
