package host

import (
	"maps"
	"slices"
)

// Places are setters of all values below a decoded one, in a fixed order.
func Places(value any) []func(any) {
	var all []func(any)
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			all = append(all, func(other any) { value[key] = other })
			all = append(all, Places(value[key])...)
		}
	case []any:
		for i := range value {
			all = append(all, func(other any) { value[i] = other })
			all = append(all, Places(value[i])...)
		}
	}
	return all
}
