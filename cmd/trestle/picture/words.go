package picture

import (
	"fmt"
	"math"
	"strconv"
)

// plural is a number with its noun: "1 port", "3 ports".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// amount is a number of addresses as it is printed: "∞" for an IPv6 subnet.
func amount(n uint64) string {
	if n > math.MaxUint32 {
		return "∞"
	}
	return strconv.FormatUint(n, 10)
}

// list is the slice, never nil: in JSON a program finds a list, not null.
func list[T any](values []T) []T {
	if values == nil {
		return []T{}
	}
	return values
}

// texts are the values as strings.
func texts[T fmt.Stringer](values []T) []string {
	var all []string
	for _, v := range values {
		all = append(all, v.String())
	}
	return all
}
