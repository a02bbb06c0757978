package dump

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestComplete(t *testing.T) {
	t.Parallel()
	other := errors.New("no such device")
	for _, test := range []struct {
		name  string
		errs  []error
		want  string
		fails error
	}{
		{"at once", []error{nil}, "list 1", nil},
		{"interrupted", []error{netlink.ErrDumpInterrupted, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted), nil}, "list 3", nil},
		{"interrupted, then refused", []error{netlink.ErrDumpInterrupted, other}, "list 2", other},
	} {
		asked := 0
		got, err := Complete(func() (string, error) {
			asked++
			return fmt.Sprint("list ", asked), test.errs[asked-1]
		})
		if got != test.want || !errors.Is(err, test.fails) {
			t.Errorf("%s: got %q, %v, want %q, %v", test.name, got, err, test.want, test.fails)
		}
	}
}
