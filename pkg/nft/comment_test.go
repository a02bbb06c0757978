package nft

import "testing"

// TestComment: user data of other programs is not read beyond its end.
func TestComment(t *testing.T) {
	for _, test := range []struct{ data, want string }{
		{"", ""},
		{"\x00", ""},
		{"\x00\x04abc\x00", "abc"},
		{"\x00\x03abc", "abc"},
		{"\x00\x00", ""},
		{"\x00\x04abc", ""},
		{"\x07\x01x\x00\x02a\x00", "a"},
		{"\x07\xff", ""},
	} {
		if got := Comment([]byte(test.data)); got != test.want {
			t.Errorf("%q: got %q, want %q", test.data, got, test.want)
		}
	}
}
