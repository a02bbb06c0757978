package ui

import (
	"bytes"
	"testing"
	"time"
)

func sample() Table {
	t := Table{Columns: []Column{{Title: "NETWORK", Least: 8}, {Title: "CONTAINER", Least: 12}, {Title: "NOTHING"}, {Title: "PORTS"}, {Title: "SIZE", Right: true}}}
	t.Add("trestle", "c1", "", List("8080->80", "8443->443"), "3")
	t.Add("a-rather-long-name-of-a-network", "a-container-of-a-name-that-nobody-can-remember-but-a-machine", "", "", "12")
	return t
}

// TestTableFits: columns that may be cut are cut until the table fits the terminal; without a
// terminal nothing is cut. A column without content is left out.
func TestTableFits(t *testing.T) {
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, `
NETWORK                          CONTAINER                                                     PORTS      SIZE
trestle                          c1                                                            8080->80      3
                                                                                               8443->443
a-rather-long-name-of-a-network  a-container-of-a-name-that-nobody-can-remember-but-a-machine               12
`},
		{60, `
NETWORK               CONTAINER              PORTS      SIZE
trestle               c1                     8080->80      3
                                             8443->443
a-rather-long-name-…  a-container-of-a-nam…               12
`},
	} {
		var out bytes.Buffer
		if err := (&Printer{Out: &out, Width: test.width}).Table(sample()); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + out.String(); got != test.want {
			t.Errorf("width %d: got%swant%s", test.width, got, test.want)
		}
	}
}

// TestTableLeavesOut: optional columns are left out, from the last on, before dear columns are
// cut.
func TestTableLeavesOut(t *testing.T) {
	sample := Table{Columns: []Column{{Title: "NAME", Least: 5}, {Title: "IF", Optional: true}, {Title: "ADDRESS", Least: 8, Dear: true}, {Title: "RX", Optional: true}}}
	sample.Add("container", "eth0", "fd6c:4ae9:71d3::2", "12kB")
	for width, want := range map[int]string{
		40: "NAME       IF    ADDRESS            RX\ncontainer  eth0  fd6c:4ae9:71d3::2  12kB\n",
		36: "NAME   IF    ADDRESS            RX\ncont…  eth0  fd6c:4ae9:71d3::2  12kB\n",
		32: "NAME     IF    ADDRESS\ncontai…  eth0  fd6c:4ae9:71d3::2\n",
		26: "NAME     ADDRESS\ncontai…  fd6c:4ae9:71d3::2\n",
		20: "NAME   ADDRESS\ncont…  fd6c:4ae9:71…\n",
	} {
		var out bytes.Buffer
		if err := (&Printer{Out: &out, Width: width}).Table(sample); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != want {
			t.Errorf("width %d: got\n%swant\n%s", width, got, want)
		}
	}
}

// TestColour: a buffer gets no colours; a terminal does.
func TestColour(t *testing.T) {
	var out bytes.Buffer
	p := New(&out, &out, false)
	if got := p.Paint(Bad, "dead"); got != "dead" || p.Width != 0 {
		t.Errorf("got %q, width %d", got, p.Width)
	}
	p.Colour = true
	if got, want := p.Paint(Bad, "dead"), "\x1b[31mdead\x1b[0m"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[uint64]string{0: "0B", 999: "999B", 1000: "1.0kB", 9_960: "10kB", 12_345: "12kB", 999_400: "999kB", 999_600: "1.0MB", 5_400_000_000: "5.4GB", 1 << 63: "9.2EB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	now := time.Now()
	for age, want := range map[time.Duration]string{-time.Hour: "0s", 90 * time.Second: "90s", 5 * time.Minute: "5m", 26 * time.Hour: "26h", 100 * time.Hour: "4d"} {
		if got := Age(now.Add(-age), now); got != want {
			t.Errorf("%v: got %s, want %s", age, got, want)
		}
	}
}
