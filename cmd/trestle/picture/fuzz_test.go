package picture

import (
	"strings"
	"testing"
)

// FuzzMaskText: no text makes the masker fail, or reveal an address.
func FuzzMaskText(f *testing.F) {
	f.Add("from 10.1.2.3:80 to [fd6c::1]:53, 0a:58:0a:01:02:03, ip-10-1-2-3, 10.1.0.0/16")
	f.Add("1.2.3.4.5 ::::: 1.2.3.4/33 \xff")
	m, err := NewMasker([16]byte([]byte("a key for a test")))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const secret = "198.51.100.77"
		if got := m.text(text + " " + secret + " " + text); strings.Contains(got, " "+secret+" ") {
			t.Errorf("of %q %s is told: %q", text, secret, got)
		}
	})
}
