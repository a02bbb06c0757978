package way

import "testing"

// FuzzParseEnd: any text is an address and a port, or is refused.
func FuzzParseEnd(f *testing.F) {
	f.Add("0100007F:1F90")
	f.Add("000080FE00000000FF005450B5F6A5FE:0050")
	f.Add("0100007FAAAAAAAA:1F90")
	f.Fuzz(func(t *testing.T, text string) {
		if end, ok := parseEnd(text); ok != end.IsValid() {
			t.Errorf("got %v, %t", end, ok)
		}
	})
}
