package cni

import (
	"errors"
	"slices"
	"testing"
)

func TestUndo(t *testing.T) {
	cause, stuck := errors.New("cause"), errors.New("stuck")
	tests := []struct {
		name     string
		err      error
		inverse  error
		wantRuns []int
		wantErrs []error
	}{
		{"success undoes nothing", nil, nil, nil, nil},
		{"failure undoes the last step first", cause, nil, []int{3, 2, 1}, []error{cause}},
		{"an inverse that fails stops no other", cause, stuck, []int{3, 2, 1}, []error{cause, stuck}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var runs []int
			err := func() (err error) {
				var undo Undo
				defer undo.OnError(&err)
				for i := 1; i <= 3; i++ {
					undo.Push("step", func() error {
						runs = append(runs, i)
						if i == 2 {
							return tt.inverse
						}
						return nil
					})
				}
				return tt.err
			}()
			if !slices.Equal(runs, tt.wantRuns) {
				t.Errorf("inverses run: got %v, want %v", runs, tt.wantRuns)
			}
			for _, want := range tt.wantErrs {
				if !errors.Is(err, want) {
					t.Errorf("got error %v, want %v in it", err, want)
				}
			}
			if tt.err == nil && err != nil {
				t.Errorf("got %v, want no error", err)
			}
		})
	}
}
