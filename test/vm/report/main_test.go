package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const said = `== test/one
=== RUN   TestA
--- PASS: TestA (0.10s)
=== RUN   TestB
=== RUN   TestB/one
    b_test.go:7: this kernel has no VLANs
=== RUN   TestB/two
    b_test.go:8: this kernel has no VLANs
--- PASS: TestB (0.10s)
    --- SKIP: TestB/one (0.00s)
    --- SKIP: TestB/two (0.00s)
=== RUN   TestE
--- FAIL: TestE (0.10s)
== test/two
=== RUN   TestC
    c_test.go:9: got 1, want 2
--- FAIL: TestC (0.10s)
=== RUN   TestD
== test/one
=== RUN   TestE
--- PASS: TestE (0.10s)
`
	r := results{}
	r.list("test/one", "TestA")
	r.list("test/two", "TestF")
	if err := r.read(strings.NewReader(said)); err != nil {
		t.Fatal(err)
	}
	page, err := replace("x\n<!-- 6.1 -->\nold\n<!-- end of 6.1 -->\ny\n", "6.1", r.describe("6.1.0-42"))
	const want = `x
<!-- 6.1 -->
6.1.0-42:

| package | passed | skipped | failed | not reached |
|---|---|---|---|---|
| test/one | 3 | 0 | 0 | 0 |
| test/two | 0 | 0 | 1 | 2 |
| all | 3 | 0 | 1 | 2 |

Skipped, and why:
- this kernel has no VLANs: ` + "`TestB` (2 of its subtests)" + `

Failed:
- got 1, want 2: ` + "`TestC`" + `

Not reached:
- ` + "`TestF`" + `
- begun, and not done when its machine's time was over: ` + "`TestD`" + `
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
