package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const said = `=== RUN   TestA
--- PASS: TestA (0.10s)
=== RUN   TestB
=== RUN   TestB/one
    b_test.go:7: this kernel has no VLANs
=== RUN   TestB/two
    b_test.go:8: nor that
--- PASS: TestB (0.10s)
    --- SKIP: TestB/one (0.00s)
    --- SKIP: TestB/two (0.00s)
=== RUN   TestC
    c_test.go:9: got 1, want 2
--- FAIL: TestC (0.10s)
=== RUN   TestD
`
	r, err := read(strings.NewReader(said))
	if err != nil {
		t.Fatal(err)
	}
	page, err := replace("x\n<!-- 6.1 -->\nold\n<!-- end of 6.1 -->\ny\n", "6.1", r.describe("6.1.0-42"))
	const want = `x
<!-- 6.1 -->
6.1.0-42: 2 tests passed: TestA, TestB

skipped, and why:
- TestB/one: this kernel has no VLANs
- TestB/two: nor that


failed:
- TestC: got 1, want 2
- TestD: did not end
<!-- end of 6.1 -->
y
`
	if err != nil || page != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, page, want)
	}
	if _, err := replace("x", "6.1", ""); err == nil {
		t.Error("no marks, and no error")
	}
}
